package containerd_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/agent/containerd/containerdtest"
	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// of returns a template that runs the image's own command.
func of(image string) *modelv1.TaskTemplate {
	return &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: image}}
}

func TestAnImageIsPulledByDigestAndRunsItsOwnCommand(t *testing.T) {
	s := newStand(t)
	server := containerdtest.NewRegistry(t, nil)
	containerdtest.Alias(t, s.HostsDir, "other.test", server.URL)
	digest := containerdtest.Push(t, server, "deep/path/app:3", containerdtest.Busybox(t, func(c *v1.Config) {
		c.Entrypoint, c.Cmd, c.User, c.WorkingDir = []string{"sh", "-c"}, []string{"id -u; pwd; exit 6"}, "app:crew", "/etc"
	}))
	for _, image := range []string{"other.test/deep/path/app@" + digest, "other.test/deep/path/app:3", "other.test/deep/path/app:3@" + digest} {
		end, printed := s.run(of(image))
		if end.Code != 6 || printed != "1000\n/etc\n" {
			t.Errorf("%s: code %d, printed %q; want 6, user 1000 in /etc", image, end.Code, printed)
		}
	}
	c := s.runtime.Task(s.spec(of("other.test/deep/path/app@sha256:" + strings.Repeat("0", 64))))
	if err := c.Prepare(s.ctx); !errors.Is(err, exec.ErrRejected) {
		t.Errorf("another digest: %v, want it rejected", err)
	}
}

func TestAnImageThatIsHereIsUsedWithoutItsRegistry(t *testing.T) {
	s := newStand(t)
	var requests atomic.Int64
	server := containerdtest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			next.ServeHTTP(w, r)
		})
	})
	containerdtest.Alias(t, s.HostsDir, "once.test", server.URL)
	containerdtest.Push(t, server, "app:1", containerdtest.Busybox(t, nil))
	s.run(of("once.test/app:1"))
	before := requests.Load()
	s.run(of("once.test/app:1"))
	server.Close()
	if end, _ := s.run(of("once.test/app:1")); end.Code != 0 || requests.Load() != before {
		t.Errorf("code %d, %d requests for an image that is here; want 0 and none", end.Code, requests.Load()-before)
	}
}

func TestEqualPullsAreOne(t *testing.T) {
	s := newStand(t)
	var manifests atomic.Int64
	server := containerdtest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/manifests/") {
				manifests.Add(1)
			}
			next.ServeHTTP(w, r)
		})
	})
	containerdtest.Alias(t, s.HostsDir, "busy.test", server.URL)
	containerdtest.Push(t, server, "app:1", containerdtest.Busybox(t, nil))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := s.runtime.Task(s.spec(of("busy.test/app:1"))).Prepare(s.ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := manifests.Load(); n != 1 {
		t.Errorf("the manifest was fetched %d times, want once", n)
	}
}

// guarded is a registry that lets in bee with honey, and whoever bears the token
// pollen.
func guarded(t *testing.T) *httptest.Server {
	return containerdtest.NewRegistry(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			user, pass, _ := r.BasicAuth()
			if (user != "bee" || pass != "honey") && r.Header.Get("Authorization") != "Bearer pollen" {
				w.Header().Set("WWW-Authenticate", `Basic realm="hive"`)
				http.Error(w, "who are you", http.StatusUnauthorized)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
}

func TestCredentialsAreShownToTheRegistryOnly(t *testing.T) {
	s := newStand(t)
	server := guarded(t)
	host := strings.TrimPrefix(server.URL, "http://")
	bee := remote.WithAuth(&authn.Basic{Username: "bee", Password: "honey"})
	containerdtest.Push(t, server, "app:1", containerdtest.Busybox(t, nil), bee)
	containerdtest.Push(t, server, "app:2", containerdtest.Busybox(t, func(c *v1.Config) { c.User = "app" }), bee)
	attempt := func(tag string, auth *modelv1.RegistryAuth) error {
		spec := s.spec(of(host + "/app:" + tag))
		spec.RegistryAuth = auth
		return s.runtime.Task(spec).Prepare(s.ctx)
	}
	for words, auth := range map[string]*modelv1.RegistryAuth{
		"refuses access without credentials": nil,
		"refuses user bee":                   {Registry: host, Username: "bee", Password: []byte("wax")},
		"refuses user wasp":                  {Registry: host, Username: "wasp", Password: []byte("wax")},
		"refuses the token":                  {Registry: host, RegistryToken: []byte("wax")},
		"refuses access without":             {Registry: "elsewhere.test", Username: "bee", Password: []byte("honey")},
	} {
		err := attempt("1", auth)
		if !errors.Is(err, exec.ErrRejected) || !strings.Contains(err.Error(), "registry "+host+" "+words) || strings.Contains(err.Error(), "wax") {
			t.Errorf("%v; want it rejected because the registry %s", err, words)
		}
	}
	s.must(attempt("1", &modelv1.RegistryAuth{Registry: host, Username: "bee", Password: []byte("honey")}))
	s.must(attempt("2", &modelv1.RegistryAuth{Registry: host, RegistryToken: []byte("pollen")}))
	s.must(attempt("1", nil)) // it is here
}

// fullHouse returns an address that answers no call: its queue of connections
// is full and nobody takes any.
func fullHouse(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		t.Cleanup(func() { unix.Close(fd) })
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	address := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 2 {
		if conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond); err == nil {
			t.Cleanup(func() { conn.Close() })
		}
	}
	return address
}

func TestARegistryOverTLSIsTrustedAsItsHostsFileSays(t *testing.T) {
	s := newStand(t)
	var handler http.Handler
	plain := containerdtest.NewRegistry(t, func(next http.Handler) http.Handler { handler = next; return next })
	containerdtest.Push(t, plain, "app:1", containerdtest.Busybox(t, nil))
	secure := httptest.NewUnstartedServer(handler)
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	containerdtest.Alias(t, s.HostsDir, "stranger.test", secure.URL)
	err := s.runtime.Task(s.spec(of("stranger.test/app:1"))).Prepare(s.ctx)
	if !errors.Is(err, exec.ErrRejected) || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
		t.Errorf("without its root: %v; want it rejected for its certificate", err)
	}
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	file := filepath.Join(s.Dir, "root.pem")
	s.must(os.WriteFile(file, root, 0o644))
	containerdtest.Alias(t, s.HostsDir, "secure.test", secure.URL)
	hosts := filepath.Join(s.HostsDir, "secure.test", "hosts.toml")
	s.must(os.WriteFile(hosts, fmt.Appendf(nil, "server = %q\nca = %q\n", secure.URL, file), 0o644))
	s.must(s.runtime.Task(s.spec(of("secure.test/app:1"))).Prepare(s.ctx))
}

func TestASilentRegistryCostsSeconds(t *testing.T) {
	s := newStand(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	s.must(err)
	t.Cleanup(func() { silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	s.must(closed.Close())
	containerdtest.Alias(t, s.HostsDir, "silent.test", "http://"+silent.Addr().String())
	containerdtest.Alias(t, s.HostsDir, "closed.test", "http://"+closed.Addr().String())
	dark := fullHouse(t)
	containerdtest.Alias(t, s.HostsDir, "dark.test", "http://"+dark)
	var wg sync.WaitGroup
	for host, words := range map[string]string{
		"silent.test": "registry " + silent.Addr().String() + " did not answer within 5",
		"closed.test": "connection refused",
		"dark.test":   "registry " + dark + " did not answer within 2",
	} {
		wg.Go(func() {
			begin := time.Now()
			err := s.runtime.Task(s.spec(of(host + "/app:1"))).Prepare(s.ctx)
			if !errors.Is(err, exec.ErrRejected) || !strings.Contains(err.Error(), words) {
				t.Errorf("%s: %v; want it rejected with %q", host, err, words)
			}
			if took := time.Since(begin); took > 8*time.Second {
				t.Errorf("%s: it took %v, want seconds", host, took)
			}
			t.Log(err)
		})
	}
	wg.Wait()
}

func TestAnImageThatIsNotThereIsToldApartFromOneForOtherMachines(t *testing.T) {
	s := newStand(t)
	server := containerdtest.NewRegistry(t, nil)
	containerdtest.Alias(t, s.HostsDir, "far.test", server.URL)
	index := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add:        containerdtest.Busybox(t, nil),
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "s390x"}},
	})
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/app:1", name.Insecure)
	s.must(err)
	s.must(remote.WriteIndex(ref, index))
	for image, words := range map[string]string{
		"far.test/app:1":    "registry far.test has it, but not for linux/",
		"far.test/app:2":    "no such image far.test/",
		"far.test/nobody:1": "no such image far.test/nobody:1: registry far.test does not have it",
	} {
		err := s.runtime.Task(s.spec(of(image))).Prepare(s.ctx)
		if !errors.Is(err, exec.ErrRejected) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v; want it rejected with %q", image, err, words)
		}
	}
}

func TestAPullEndsWithItsContext(t *testing.T) {
	s := newStand(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	s.must(err)
	t.Cleanup(func() { silent.Close() })
	containerdtest.Alias(t, s.HostsDir, "silent.test", "http://"+silent.Addr().String())
	ctx, stop := context.WithTimeout(s.ctx, 50*time.Millisecond)
	defer stop()
	err = s.runtime.Task(s.spec(of("silent.test/app:1"))).Prepare(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, exec.ErrRejected) {
		t.Errorf("%v; want it ended by its context and not rejected", err)
	}
}
