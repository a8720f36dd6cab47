//go:build lab

package lab_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// TestContainersDieWithTheirHost runs a real containerd on a host, pulls the
// lab's image through the mirror, and pulls the plug under a container.
func TestContainersDieWithTheirHost(t *testing.T) {
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(bin, "containerd")); err != nil {
		t.Fatalf("%v: make runtime builds it", err)
	}
	l, err := lab.New(t.Context(), lab.Config{Bin: bin, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		leftovers(t, l.Name())
	}()
	h, err := l.Host("dev01")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	startContainerd(t, h)
	const image = "docker.io/library/alpine:latest"
	want(t, h, "ctr -n lab images pull --hosts-dir /etc/containerd/certs.d "+image, "")
	want(t, h, "ctr -n lab run --rm --net-host --mount type=bind,src=/etc/hosts,dst=/etc/hosts,options=rbind:ro "+image+" named ping -c 1 gateway", "1 packets received")
	want(t, h, "ctr -n lab run -d --net-host "+image+" lasting sleep 1234567", "")
	if out, _ := run(t, h, "ctr -n lab tasks ls"); !strings.Contains(out, "RUNNING") {
		t.Errorf("the container does not run: %s", out)
	}
	if pids, err := h.Pids(t.Context(), "sleep"); err != nil || len(pids) != 1 {
		t.Errorf("processes of the container: %v, %v; want one", pids, err)
	}
	if err := h.Kill(); err != nil {
		t.Fatal(err)
	}
	if lines, _ := filepath.Glob("/proc/[0-9]*/cmdline"); len(lines) > 0 {
		for _, f := range lines {
			if data, _ := os.ReadFile(f); strings.Contains(string(data), "1234567") && !dead(filepath.Dir(f)) {
				t.Errorf("a container outlived its host: %s", f)
			}
		}
	}
}

func startContainerd(t *testing.T, h *lab.Host) {
	t.Helper()
	want(t, h, "mkdir -p /etc/containerd && echo 'version = 3' >/etc/containerd/config.toml", "")
	log, err := os.Create(filepath.Join(h.Dir(), "log/containerd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if _, err := h.Spawn(t.Context(), log, "containerd", "--root", lab.StateDir+"/containerd"); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	r, err := h.Shell(ctx, "until ctr version >/dev/null 2>&1; do sleep 0.1; done")
	if err != nil || r.Code != 0 {
		said, _ := os.ReadFile(log.Name())
		t.Fatalf("containerd does not answer: %v\n%s", err, said)
	}
}
