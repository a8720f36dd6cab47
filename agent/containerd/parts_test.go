package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestEqualWorkIsDoneOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		var runs, heard atomic.Int64
		for range 3 {
			go func() {
				err := f.do(t.Context(), "key", func(context.Context) error {
					runs.Add(1)
					time.Sleep(time.Second)
					return errors.New("done")
				})
				if err != nil && err.Error() == "done" {
					heard.Add(1)
				}
			}()
		}
		time.Sleep(2 * time.Second)
		if runs.Load() != 1 || heard.Load() != 3 {
			t.Errorf("%d runs heard by %d, want 1 by 3", runs.Load(), heard.Load())
		}
		f.close()
	})
}

func TestWorkNobodyWaitsForIsCancelledAndBegunAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f flights
		var cancelled atomic.Int64
		work := func(ctx context.Context) error {
			<-ctx.Done()
			cancelled.Add(1)
			time.Sleep(time.Second) // it takes a while to notice
			return ctx.Err()
		}
		patient, stop := context.WithCancel(t.Context())
		go func() { _ = f.do(patient, "key", work) }()
		hasty, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		if err := f.do(hasty, "key", work); !errors.Is(err, context.DeadlineExceeded) || cancelled.Load() != 0 {
			t.Errorf("the hasty one: %v, cancelled %d; want its deadline and the work going on", err, cancelled.Load())
		}
		stop()
		synctest.Wait()
		if cancelled.Load() != 1 {
			t.Error("work that nobody waits for goes on")
		}
		if err := f.do(t.Context(), "key", func(context.Context) error { return nil }); err != nil {
			t.Errorf("begun anew: %v", err)
		}
		f.close()
		if err := f.do(t.Context(), "key", work); !errors.Is(err, errClosed) {
			t.Errorf("after close: %v, want %v", err, errClosed)
		}
	})
}

func TestALaneHoldsOneAndIsWaitedForNoLongerThanAContextLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l lanes
		leave, err := l.enter(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if _, err := l.enter(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a second enters: %v", err)
		}
		other, err := l.enter(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		other()
		leave()
		if leave, err = l.enter(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		leave()
		if len(l.lanes) != 0 {
			t.Errorf("%d lanes are left, want none", len(l.lanes))
		}
	})
}

func TestAnExitIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for _, want := range []exec.Exit{
		{Code: 137, At: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), OOM: true},
		{},
	} {
		if got := exitOf(exitLabels(want)); got == nil || *got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	if got := exitOf(map[string]string{labelStarted: "x"}); got != nil {
		t.Errorf("%+v, want none", *got)
	}
}

func TestOOMKills(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, filepath.Join(root, "memory", "skep", "one", "memory.oom_control"), "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
	write(t, filepath.Join(root, "skep", "two", "memory.events"), "low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\n")
	for group, want := range map[string]int{"/skep/one": 3, "/skep/two": 2, "/skep/none": 0} {
		if got := oomKills(root, group); got != want {
			t.Errorf("%s: %d, want %d", group, got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestALogIsCutWhereverItsWriterStands(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	writer, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Close()
	step := func(print, log, old string) {
		t.Helper()
		if _, err := writer.WriteString(print); err != nil {
			t.Fatal(err)
		}
		if err := boundLog(path, 8); err != nil {
			t.Fatal(err)
		}
		got, _ := os.ReadFile(path)
		gotOld, _ := os.ReadFile(path + ".1")
		if string(got) != log || string(gotOld) != old {
			t.Errorf("after %q: log %q and old %q, want %q and %q", print, got, gotOld, log, old)
		}
	}
	step("12345678", "12345678", "")
	step("9abc", "", "56789abc")
	step("def", "def", "56789abc")
}

func TestShimAddress(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "new", "bootstrap.json"), `{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}`)
	write(t, filepath.Join(dir, "old", "address"), "unix:///run/s/2")
	write(t, filepath.Join(dir, "grpc", "bootstrap.json"), `{"version":3,"address":"unix:///run/s/1","protocol":"grpc"}`)
	write(t, filepath.Join(dir, "vsock", "bootstrap.json"), `{"version":3,"address":"vsock://1","protocol":"ttrpc"}`)
	for name, want := range map[string]string{"new": "/run/s/1 3", "old": "/run/s/2 2", "grpc": "", "vsock": "", "none": ""} {
		path, version, err := shimAddress(filepath.Join(dir, name))
		got := ""
		if err == nil {
			got = fmt.Sprint(path, " ", version)
		}
		if got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
}

func TestParentOf(t *testing.T) {
	t.Parallel()
	if got, err := parentOf(uint32(os.Getpid())); err != nil || got != os.Getppid() {
		t.Errorf("%d, %v; want %d", got, err, os.Getppid())
	}
}

func TestCredentialsAreForTheImagesOwnRegistry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		image, host string
		auth        *modelv1.RegistryAuth
		want        string // user, secret and bearer
	}{
		{"registry.test:5000/a/b:1", "registry.test:5000", nil, "//"},
		{"registry.test:5000/a/b:1", "registry.test:5000", &modelv1.RegistryAuth{Registry: "registry.test:5000", Username: "u", Password: []byte("p")}, "u/p/"},
		{"registry.test:5000/a/b:1", "registry.test:5000", &modelv1.RegistryAuth{Registry: "registry.test", Username: "u", Password: []byte("p")}, "//"},
		{"registry.test/a", "mirror.test", &modelv1.RegistryAuth{Registry: "registry.test", Username: "u", Password: []byte("p")}, "//"},
		{"registry.test/a", "registry.test", &modelv1.RegistryAuth{Registry: "registry.test", Username: "u", IdentityToken: []byte("t")}, "/t/"},
		{"registry.test/a", "registry.test", &modelv1.RegistryAuth{Registry: "registry.test", Username: "u", Password: []byte("p"), RegistryToken: []byte("b")}, "//b"},
		{"alpine", "registry-1.docker.io", &modelv1.RegistryAuth{Registry: "docker.io", Username: "u", Password: []byte("p")}, "u/p/"},
	} {
		c := credentialsFor(tt.image, tt.auth)
		user, secret, err := c.forHost(tt.host)
		hosts, herr := c.bear(docker.ConfigureDefaultRegistries())(tt.host)
		if err != nil || herr != nil {
			t.Fatal(err, herr)
		}
		bearer := strings.TrimPrefix(hosts[0].Header.Get("Authorization"), "Bearer ")
		if got := user + "/" + secret + "/" + bearer; got != tt.want {
			t.Errorf("%s at %s with %v: %q, want %q", tt.image, tt.host, tt.auth.GetRegistry(), got, tt.want)
		}
	}
}

func TestDifferentCredentialsDoNotShareADownload(t *testing.T) {
	t.Parallel()
	seen := map[string]*modelv1.RegistryAuth{}
	for _, auth := range []*modelv1.RegistryAuth{
		nil,
		{Registry: "r.test", Username: "u", Password: []byte("p")},
		{Registry: "r.test", Username: "up"},
		{Registry: "r.test", Username: "u", Password: []byte("q")},
		{Registry: "r.test", IdentityToken: []byte("p")},
		{Registry: "r.test", RegistryToken: []byte("p")},
	} {
		d := credentialsFor("r.test/a", auth).digest()
		if was, had := seen[d]; had {
			t.Errorf("%v has the digest of %v", auth, was)
		}
		seen[d] = auth
	}
}

func TestACallToAContainerdThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ string, _, _ any, _ *grpc.ClientConn, _ ...grpc.CallOption) error {
			<-ctx.Done()
			return ctx.Err()
		}
		begin := time.Now()
		err := bound(t.Context(), "/containerd.services.containers.v1.Containers/Get", nil, nil, nil, hang)
		if took := time.Since(begin); took != callTimeout || grpcstatus.Code(err) != codes.Unavailable {
			t.Errorf("%v after %v; want it unavailable after %v", err, took, callTimeout)
		}
		ctx, stop := context.WithTimeout(t.Context(), 10*callTimeout)
		defer stop()
		begin = time.Now()
		err = bound(ctx, "/containerd.services.tasks.v1.Tasks/Wait", nil, nil, nil, hang)
		if took := time.Since(begin); took != 10*callTimeout || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a wait: %v after %v; want its own deadline", err, took)
		}
	})
}
