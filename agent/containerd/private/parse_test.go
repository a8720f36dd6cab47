package private

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
)

func TestParseMajor(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]int{
		"containerd github.com/containerd/containerd/v2 v2.3.7 \n":                        2,
		"containerd github.com/containerd/containerd/v2 2.3.7+unknown ":                   2,
		"containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3":     1,
		"containerd github.com/containerd/containerd v1.7.29 442cb34bda9a6a0fed82a2ca7ca": 1,
		"containerd github.com/containerd/containerd/v2 (devel)":                          2,
	} {
		if got, err := parseMajor(line); err != nil || got != want {
			t.Errorf("%q: %d, %v; want %d", line, got, err, want)
		}
	}
	for _, line := range []string{"", "runc version 1.5.2"} {
		if got, err := parseMajor(line); err == nil {
			t.Errorf("%q: %d, want an error", line, got)
		}
	}
}

func TestTheConfigurationFitsTheVersion(t *testing.T) {
	t.Parallel()
	s := &Supervisor{cfg: Config{StateDir: "/s", RunDir: `/r "x"`, HostsDir: "/h", CgroupPath: "/g", Log: slog.New(slog.DiscardHandler)}}
	for major, version := range map[int]string{1: "version = 2\n", 2: "version = 3\n"} {
		got := s.config(major)
		for _, want := range []string{version, `state = "/r \"x\"/state"`, `root = "/s/root"`, "imports = []", "cri", `path = "/g"`} {
			if !strings.Contains(got, want) {
				t.Errorf("containerd %d: no %q in\n%s", major, want, got)
			}
		}
	}
}

func TestContainerdDoesNotInheritWhatIsMeantForTheDaemon(t *testing.T) {
	t.Parallel()
	got := environment([]string{"PATH=/old", "HTTPS_PROXY=p", "NOTIFY_SOCKET=/n", "SKEP_TOKEN=t", "LISTEN_FDS=1"}, "/new")
	if want := []string{"PATH=/new", "HTTPS_PROXY=p"}; !slices.Equal(got, want) {
		t.Errorf("environment %q, want %q", got, want)
	}
}
