package control

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestAServiceIsStoredComplete(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	x := w.create(web())
	v := w.view("web")
	policy := &modelv1.UpdateConfig{
		Parallelism: 1, Monitor: int64(5 * time.Second),
		FailureAction: modelv1.FailureAction_FAILURE_ACTION_PAUSE, Order: modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST,
	}
	want := &controlv1.ServiceView{
		Service: &modelv1.Service{
			Id: x.Bytes(), Current: 1, Target: 1, LastRevision: 1,
			Spec: &modelv1.ServiceSpec{
				Name: "web", Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 1}},
				Update: policy, Rollback: policy,
				Restart: &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ANY, Delay: int64(5 * time.Second)},
			},
		},
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{
			Image: "docker.io/library/alpine:latest", StopGracePeriod: int64(10 * time.Second),
		}},
		Desired: 1,
	}
	if diff := cmp.Diff(want, v, protocmp.Transform(), protocmp.IgnoreFields(&modelv1.Service{}, "meta")); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
	if holder, _ := w.snapshot().Holder(store.ClaimServiceName, "web"); holder != x {
		t.Errorf("the name belongs to %v, want the service", holder)
	}
}

func TestANameIsTakenOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.create(web())
	_, err := w.CreateService(w.ctx(), web())
	w.refuses(err, errdefs.IsAlreadyExists, "name conflicts with an existing object: service web already exists", "another name")
}

func TestTheNameOfAServiceIsFreeOnceItIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	old := w.create(web())
	remove := func(ref string) {
		t.Helper()
		if _, err := w.RemoveService(w.ctx(), &controlv1.RemoveServiceRequest{RequestId: fresh(), Ref: ref}); err != nil {
			t.Fatal(err)
		}
	}
	remove("web")
	if got := w.view("web").GetService(); idOf(got.GetId()) != old || !got.GetRemoving() {
		t.Errorf("web is %v; want the one that is being removed for as long as no other has the name", got)
	}
	remove("web") // again: it is what was asked for
	made := w.create(web())
	if got := idOf(w.view("web").GetService().GetId()); got != made {
		t.Errorf("web is %v, want the new one %v", got, made)
	}
	if got := w.view(old.String()).GetService(); !got.GetRemoving() {
		t.Errorf("the old one is %v, want it still being removed", got)
	}
	remove("web")
	if got := w.view(made.String()).GetService(); !got.GetRemoving() {
		t.Errorf("the new one is %v, want it being removed too", got)
	}
}

func TestANameIsDrawnIfNoneIsGiven(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	seen := map[string]bool{}
	for range 50 {
		req := web()
		req.Spec.Name = ""
		x := w.create(req)
		name := w.snapshot().Service(x).GetSpec().GetName()
		var f faults
		if f.name("name", name); len(f) > 0 || seen[name] {
			t.Errorf("drew %q: %v, seen %v", name, f, seen[name])
		}
		seen[name] = true
	}
}

func TestAllThatIsWrongWithAServiceIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	bind := func(source, target string) *modelv1.Mount {
		return &modelv1.Mount{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: source, Target: target}
	}
	for _, tt := range []struct {
		name string
		edit func(*modelv1.ServiceSpec, *modelv1.TaskTemplate)
		want string
	}{
		{"name", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) { s.Name = "no good" }, `name "no good": want 1 to 63`},
		{"long name", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) { s.Name = strings.Repeat("a", 64) }, "want 1 to 63"},
		{"no image", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container = nil }, "image: missing"},
		{"image", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Image = "Alpine" }, `image "Alpine": invalid reference format`},
		{"replicas", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) {
			s.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 1e6}}
		}, "replicas 1000000: at most 100000"},
		{"constraint", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Placement = &modelv1.Placement{Constraints: []string{"node.role"}}
		}, `constraint: "node.role": want key==value`},
		{"spread", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Placement = &modelv1.Placement{Spread: []string{"moon"}}
		}, "placement preference"},
		{"global with a maximum", func(s *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			s.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
			t.Placement = &modelv1.Placement{MaxReplicasPerNode: 1}
		}, "max replicas per node: a global service"},
		{"restart delay", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) {
			s.Restart = &modelv1.RestartPolicy{Delay: -1}
		}, "restart delay -1ns"},
		{"ratio", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) {
			s.Update = &modelv1.UpdateConfig{MaxFailureRatio: 2}
		}, "update max failure ratio 2: want 0 to 1"},
		{"rolling a rollback back", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) {
			s.Rollback = &modelv1.UpdateConfig{FailureAction: modelv1.FailureAction_FAILURE_ACTION_ROLLBACK}
		}, "a rollback is not rolled back"},
		{"grace", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.StopGracePeriod = -5 }, "stop grace period"},
		{"signal", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.StopSignal = "SIGNOPE" }, "stop signal"},
		{"directory", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Dir = "a/b" }, "want an absolute path"},
		{"hostname", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Hostname = "a b" }, `hostname "a b"`},
		{"environment", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Env = []string{"=x"} }, "environment"},
		{"oom", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.OomScoreAdj = 1001 }, "oom score 1001"},
		{"capability", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.CapAdd = []string{"NET ADMIN"} }, "capability to add"},
		{"no such capability", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.CapDrop = []string{"BOGUS"} }, `capability to drop "BOGUS"`},
		{"every capability", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.CapAdd = []string{"all"} }, "name the capabilities that are needed"},
		{"what no node does", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Init = true }, "leave --init away"},
		{"placeholder", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) { t.Container.Hostname = "{{.Bogus}}" }, `hostname "{{.Bogus}}"`},
		{"ulimit", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Ulimits = []*modelv1.Ulimit{{Name: "files"}}
		}, `ulimit "files": want one of`},
		{"ulimits the wrong way", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Ulimits = []*modelv1.Ulimit{{Name: "nofile", Soft: 2, Hard: 1}}
		}, "ulimit nofile 2:1"},
		{"memory", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Limits = &modelv1.Limits{MemoryBytes: 1024}
		}, "limit of memory 1024 bytes: at least 4 MiB"},
		{"more than the limit", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Limits, t.Reservations = &modelv1.Limits{NanoCpus: 1e9}, &modelv1.Resources{NanoCpus: 2e9}
		}, "reserved cpu is more than its limit"},
		{"bind source", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{bind("data", "/data")}
		}, "bind source"},
		{"mount twice", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{bind("/a", "/x"), bind("/b", "/x/")}
		}, "it is mounted twice"},
		{"mount over the root", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{bind("/a", "/")}
		}, "that is not /"},
		{"mount of no type", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{{Target: "/x"}}
		}, "want bind, tmpfs or volume"},
		{"tmpfs source", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_TMPFS, Source: "a", Target: "/x"}}
		}, "a tmpfs has no source"},
		{"volume path", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Mounts = []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_VOLUME, Source: "/a", Target: "/x"}}
		}, "a path needs type bind"},
		{"size", func(_ *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
			t.Container.Args = []string{strings.Repeat("x", maxTemplateBytes)}
		}, "the template takes"},
		{"label", func(s *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) { s.Labels = map[string]string{"": ""} }, "label: a key is empty"},
	} {
		req := web()
		tt.edit(req.GetSpec(), req.GetTemplate())
		_, err := w.CreateService(w.ctx(), req)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	req := web()
	req.Spec.Name, req.Template = "a b", nil
	_, err := w.CreateService(w.ctx(), req)
	w.refuses(err, errdefs.IsInvalidArgument, "; image: missing", "")
	if len(w.snapshot().Service(num(0)).GetId()) != 0 || w.snapshot().CountTasks() != 0 {
		t.Error("something was written")
	}
}

func TestSendingBackWhatIsShownChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	req := web()
	req.Template.Container.CapAdd, req.Template.Container.CapDrop = []string{"net_admin"}, []string{"all"}
	req.Template.Container.Env = []string{"A=1"}
	req.Template.Limits = &modelv1.Limits{MemoryBytes: 64 << 20}
	w.create(req)
	before := w.snapshot().Index()
	if err := w.update("web", func(*controlv1.UpdateServiceRequest) {}); err != nil || w.snapshot().Index() != before {
		t.Errorf("the update: %v, index %d, want %d", err, w.snapshot().Index(), before)
	}
	if got := w.view("web").GetTemplate().GetContainer(); got.GetCapAdd()[0] != "CAP_NET_ADMIN" || got.GetCapDrop()[0] != "ALL" {
		t.Errorf("capabilities = %v", got)
	}
}

func TestOnlyATemplateMakesARevision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.create(web())
	if err := w.update("web", func(r *controlv1.UpdateServiceRequest) {
		r.Spec.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 5}}
		r.Template = nil
	}); err != nil {
		t.Fatal(err)
	}
	if v := w.view("web"); v.GetDesired() != 5 || v.GetService().GetTarget() != 1 || v.GetService().GetUpdate() != nil {
		t.Errorf("scaled = %v", v)
	}
	if err := w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Template.Container.Image = "alpine:3.20" }); err != nil {
		t.Fatal(err)
	}
	v := w.view("web")
	svc := v.GetService()
	if svc.GetTarget() != 2 || svc.GetPrevious() != 1 || svc.GetCurrent() != 1 || svc.GetLastRevision() != 2 ||
		svc.GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_UPDATING {
		t.Errorf("updated = %v", svc)
	}
	if v.GetTemplate().GetContainer().GetImage() != "docker.io/library/alpine:3.20" || v.GetPreviousTemplate().GetContainer().GetImage() != "docker.io/library/alpine:latest" {
		t.Errorf("templates = %v and %v", v.GetTemplate(), v.GetPreviousTemplate())
	}
	if err := w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Template.Force++ }); err != nil || w.view("web").GetService().GetTarget() != 3 {
		t.Errorf("forced: %v, %v", err, w.view("web").GetService())
	}
}

func TestAPausedUpdateGoesOnWhenNothingElseIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	x := w.create(web())
	pause := func() {
		v := proto.CloneOf(w.snapshot().Service(x))
		v.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_PAUSED}
		w.do(&logv1.Operation{Op: &logv1.Operation_PutService{PutService: v}})
	}
	pause()
	if err := w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Spec.Labels = map[string]string{"a": "b"} }); err != nil {
		t.Fatal(err)
	}
	if got := w.view("web").GetService().GetUpdate().GetState(); got != modelv1.UpdateState_UPDATE_STATE_PAUSED {
		t.Errorf("a label set it going: %v", got)
	}
	if err := w.update("web", func(*controlv1.UpdateServiceRequest) {}); err != nil {
		t.Fatal(err)
	}
	if got := w.view("web").GetService().GetUpdate().GetState(); got != modelv1.UpdateState_UPDATE_STATE_UPDATING {
		t.Errorf("it did not go on: %v", got)
	}
}

func TestARollbackGoesToThePreviousRevision(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.create(web())
	back := func() error {
		_, err := w.UpdateService(w.ctx(), &controlv1.UpdateServiceRequest{RequestId: fresh(), Ref: "web", Rollback: true})
		return err
	}
	w.refuses(back(), errdefs.IsFailedPrecondition, "service web does not have a previous revision", "ctl service update web")
	if err := w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Template.Container.Image = "alpine:2" }); err != nil {
		t.Fatal(err)
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	if v := w.view("web"); v.GetService().GetTarget() != 1 || v.GetService().GetUpdate().GetState() != modelv1.UpdateState_UPDATE_STATE_ROLLBACK_STARTED {
		t.Errorf("service = %v", v.GetService())
	}
}

func TestAnUpdateIsRefusedInWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.create(web())
	w.refuses(w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Version-- }), errdefs.IsAborted, "update out of sequence: service web", "read it again")
	w.refuses(w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Version = 0 }), errdefs.IsInvalidArgument, "version", "")
	w.refuses(w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Spec.Name = "other" }), errdefs.IsNotImplemented, "renaming services is not supported", "")
	w.refuses(w.update("web", func(r *controlv1.UpdateServiceRequest) {
		r.Spec.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
	}), errdefs.IsNotImplemented, "service mode change is not allowed", "")
	w.refuses(w.update("web", func(r *controlv1.UpdateServiceRequest) { r.Template.Container.Image = "A" }), errdefs.IsInvalidArgument, "image", "")
	for range 2 { // removing what is being removed is no fault
		if _, err := w.RemoveService(w.ctx(), &controlv1.RemoveServiceRequest{RequestId: fresh(), Ref: "web"}); err != nil {
			t.Fatal(err)
		}
	}
	w.refuses(w.update("web", func(*controlv1.UpdateServiceRequest) {}), errdefs.IsFailedPrecondition, "is being removed", "")
	if v := w.view("web"); !v.GetService().GetRemoving() || v.GetDesired() != 0 {
		t.Errorf("service = %v", v)
	}
	_, err := w.RemoveService(w.ctx(), &controlv1.RemoveServiceRequest{RequestId: fresh(), Ref: "nothing"})
	w.refuses(err, errdefs.IsNotFound, "service nothing not found", "")
}

func TestServicesAreListedWithWhatRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	req := web()
	req.Spec.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 4}}
	req.Spec.Labels = map[string]string{"tier": "front"}
	x := w.create(req)
	global := web()
	global.Spec = &modelv1.ServiceSpec{Name: "agent", Mode: &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}}
	g := w.create(global)
	w.task(100, x, 1, 1, taskstate.Running)
	w.task(101, x, 2, 2, taskstate.Running)
	w.task(102, x, 3, 1, taskstate.Starting)
	w.task(103, x, 4, 1, taskstate.Failed)
	w.task(104, g, 0, 1, taskstate.Running)
	w.lose(2, 1)
	if v := w.view("web"); v.GetRunning() != 1 || v.GetDesired() != 4 {
		t.Errorf("web runs %d/%d, want 1/4", v.GetRunning(), v.GetDesired())
	}
	if v := w.view("agent"); v.GetRunning() != 1 || v.GetDesired() != 1 {
		t.Errorf("agent runs %d/%d, want 1/1", v.GetRunning(), v.GetDesired())
	}
	for _, tt := range []struct {
		filter *controlv1.Filter
		want   int
	}{
		{nil, 2}, {&controlv1.Filter{Names: []string{"we"}}, 1}, {&controlv1.Filter{Modes: []string{"global"}}, 1},
		{&controlv1.Filter{Labels: []string{"tier=front"}}, 1}, {&controlv1.Filter{Labels: []string{"tier=back"}}, 0},
		{&controlv1.Filter{Ids: []string{g.String()[:20], x.String()[:20]}}, 2},
	} {
		resp, err := w.ListServices(w.ctx(), &controlv1.ListServicesRequest{Filter: tt.filter})
		if err != nil || len(resp.GetServices()) != tt.want {
			t.Errorf("by %v: %d services, %v; want %d", tt.filter, len(resp.GetServices()), err, tt.want)
		}
	}
}
