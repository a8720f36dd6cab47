package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// bee is what a registry lets in.
func bee(registry, password string) *modelv1.RegistryAuth {
	return &modelv1.RegistryAuth{Registry: registry, Username: "bee", Password: []byte(password)}
}

// auths are the passwords a service has, by registry, in the order of its own.
func (w *world) auths(ref string) string {
	w.Helper()
	v, err := service(w.snapshot(), ref)
	if err != nil {
		w.Fatal(err)
	}
	var out []string
	for _, a := range v.GetRegistryAuths() {
		out = append(out, a.GetRegistry()+"="+string(a.GetPassword()))
	}
	return strings.Join(out, " ")
}

func (w *world) private(image, password string) {
	w.Helper()
	req := web()
	req.Template.Container.Image, req.RegistryAuth = image, bee(registryOf(image), password)
	w.create(req)
}

func TestFreshCredentialsMakeNoRevisionAndOldOnesStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.private("r.test/app", "honey")
	step := func(what string, change func(*controlv1.UpdateServiceRequest), revision uint64, auths string) {
		t.Helper()
		if err := w.update("web", change); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if got := w.view("web").GetService().GetTarget(); got != revision {
			t.Errorf("%s: revision %d, want %d", what, got, revision)
		}
		if got := w.auths("web"); got != auths {
			t.Errorf("%s: credentials %q, want %q", what, got, auths)
		}
	}
	image := func(ref string) func(*controlv1.UpdateServiceRequest) {
		return func(req *controlv1.UpdateServiceRequest) { req.Template.Container.Image = ref }
	}
	step("what is shown sent back", func(*controlv1.UpdateServiceRequest) {}, 1, "r.test=honey")
	step("another label", func(req *controlv1.UpdateServiceRequest) { req.Spec.Labels = map[string]string{"a": "b"} }, 1, "r.test=honey")
	step("fresh ones", func(req *controlv1.UpdateServiceRequest) { req.RegistryAuth = bee("r.test", "wax") }, 1, "r.test=wax")
	step("another tag", image("r.test/app:2"), 2, "r.test=wax")
	step("another registry", func(req *controlv1.UpdateServiceRequest) {
		image("s.test/app")(req)
		req.RegistryAuth = bee("s.test", "nectar")
	}, 3, "r.test=wax s.test=nectar")
	w.converge(t)
	step("no template", func(req *controlv1.UpdateServiceRequest) {
		req.Template, req.RegistryAuth = nil, bee("s.test", "pollen")
	}, 3, "r.test=wax s.test=pollen")
	step("back, with fresh ones", func(req *controlv1.UpdateServiceRequest) {
		req.Rollback, req.RegistryAuth = true, bee("r.test", "comb")
	}, 1, "s.test=pollen r.test=comb")
	w.converge(t)
	step("a registry that nothing names any more", image("alpine"), 4, "r.test=comb")
	w.converge(t)
	step("and again", image("alpine:2"), 5, "")
}

// converge says that the update of web has ended well.
func (w *world) converge(t *testing.T) {
	t.Helper()
	v := proto.CloneOf(w.snapshot().ServiceByName("web"))
	v.Current = v.GetTarget()
	w.do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
}

func TestCredentialsAreShownToNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.private("r.test/app", "hunter2")
	ctx, stop := context.WithCancel(w.ctx())
	watch := &stream{ctx: ctx, sent: make(chan *controlv1.WatchServiceResponse)}
	ended := make(chan error, 1)
	go func() { ended <- w.WatchService(&controlv1.WatchServiceRequest{Ref: "web"}, watch) }()
	watched := <-watch.sent
	stop()
	<-ended
	list, err := w.ListServices(w.ctx(), &controlv1.ListServicesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, answer := range []proto.Message{w.view("web"), list, watched} {
		data, err := proto.Marshal(answer)
		if err != nil || !strings.Contains(string(data), "r.test/app") {
			t.Errorf("%v, %v; want an answer about the service", answer, err)
		}
		if text := fmt.Sprint(answer) + string(data); strings.Contains(text, "hunter2") || strings.Contains(text, "bee") {
			t.Errorf("credentials are in %v", answer)
		}
	}
	if got := w.auths("web"); got != "r.test=hunter2" {
		t.Errorf("the answers took the service's own: %q is left", got)
	}
}

func TestCredentialsWithoutSenseAreRefusedAndNotQuoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for words, auth := range map[string]*modelv1.RegistryAuth{
		`they are for "elsewhere.test", the image is of r.test`: bee("elsewhere.test", "hunter2"),
		"neither a password nor a token":                        {Registry: "r.test", Username: "hunter2"},
		"at most 16384":                                         bee("r.test", strings.Repeat("hunter2", 4000)),
		"cannot be printed":                                     {Registry: "r.test", Username: "hunter2\n", Password: []byte("hunter2")},
	} {
		req := web()
		req.Template.Container.Image, req.RegistryAuth = "r.test/app", auth
		_, err := w.CreateService(w.ctx(), req)
		w.refuses(err, errdefs.IsInvalidArgument, words, "")
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v quotes a secret", err)
		}
	}
	w.private("r.test/app", "honey")
	w.refuses(w.update("web", func(req *controlv1.UpdateServiceRequest) {
		req.Template, req.RegistryAuth = nil, bee("elsewhere.test", "wax")
	}), errdefs.IsInvalidArgument, "the image is of r.test", "")
	if got := w.auths("web"); got != "r.test=honey" {
		t.Errorf("after a refusal the service has %q", got)
	}
}

func TestACredentialsRetryIsTheSameRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	req := web()
	req.Template.Container.Image, req.RegistryAuth = "r.test/app", bee("r.test", "honey")
	first := w.create(req)
	if again := w.create(req); again != first || !slices.Equal(w.view("web").GetService().GetId(), first.Bytes()) {
		t.Errorf("a retry made %s, want %s", again, first)
	}
}
