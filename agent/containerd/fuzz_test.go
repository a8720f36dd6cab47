package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// FuzzHostFiles reads what kernels and shims leave in files: a shim's address, a
// bundle's cgroup, memory, counters.
func FuzzHostFiles(f *testing.F) {
	for _, text := range []string{
		`{"version":3,"address":"unix:///run/containerd/s/abc","protocol":"ttrpc"}`, `{"address":"tcp://1.2.3.4:5","protocol":"ttrpc"}`,
		`{"version":3,"address":"unix:///a","protocol":"grpc"}`, "unix:///run/s\n", `{"linux":{"cgroupsPath":"/skep/a"}}`, `{"linux":null}`, "[",
		"MemTotal:       32768 kB\n", "MemTotal: 99999999999999999999 kB\n", "oom_kill 3\n", "low 0\noom_kill x\n",
	} {
		f.Add([]byte(text))
	}
	dir, memory := f.TempDir(), filepath.Join(f.TempDir(), "meminfo")
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, at := range []string{filepath.Join(dir, "bootstrap.json"), filepath.Join(dir, "config.json"), memory} {
			if err := os.WriteFile(at, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _, _ = shimAddress(dir)
		_ = bundleCgroup(dir)
		if n, err := memoryTotal(memory); err == nil && n < 0 {
			t.Errorf("%q is a memory of %d bytes", data, n)
		}
		if n, ok := counter(memory, "oom_kill"); ok && !strings.Contains(string(data), "oom_kill") {
			t.Errorf("%q counts %d", data, n)
		}
	})
}

// FuzzParent reads the parent of a process, whose name may be anything.
func FuzzParent(f *testing.F) {
	f.Add("containerd-shim", 1)
	f.Add(") S 7 (", 4194304)
	f.Add("a\nb", -1)
	f.Fuzz(func(t *testing.T, name string, parent int) {
		got, err := parentIn(fmt.Appendf(nil, "12 (%s) S %d 12 12 0", name, parent))
		if err != nil || got != parent {
			t.Errorf("the parent of %q is %d, %v; want %d", name, got, err, parent)
		}
		_, _ = parentIn([]byte(name))
	})
}

// FuzzExit reads how a container ended in its labels: what was written there comes
// back.
func FuzzExit(f *testing.F) {
	f.Add("137", "2026-03-01T12:00:00.5Z", "true")
	f.Add("-1", "", "")
	f.Add("99999999999", "x", "TRUE")
	f.Fuzz(func(t *testing.T, code, at, oom string) {
		e := exitOf(map[string]string{labelCode: code, labelAt: at, labelOOM: oom})
		if e == nil {
			return
		}
		again := exitOf(exitLabels(*e))
		if again == nil || again.Code != e.Code || again.OOM != e.OOM || !again.At.Equal(e.At) && e.At.After(time.Time{}) {
			t.Errorf("%q, %q, %q is %v, which is read again as %v", code, at, oom, e, again)
		}
	})
}
