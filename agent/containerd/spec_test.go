package containerd

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestArguments(t *testing.T) {
	t.Parallel()
	img := imagespec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"a", "b"}}
	for _, tt := range []struct {
		name          string
		img           imagespec.ImageConfig
		command, args []string
		want          []string
	}{
		{"the image's own", img, nil, nil, []string{"entry", "a", "b"}},
		{"args replace the image's arguments", img, nil, []string{"x"}, []string{"entry", "x"}},
		{"command replaces both", img, []string{"c"}, nil, []string{"c"}},
		{"command and args replace both", img, []string{"c"}, []string{"x"}, []string{"c", "x"}},
		{"nothing to run", imagespec.ImageConfig{}, nil, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := arguments(tt.img, &modelv1.ContainerSpec{Command: tt.command, Args: tt.args})
			if !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

func TestEnvironmentTakesTheLastOfAName(t *testing.T) {
	t.Parallel()
	img := imagespec.ImageConfig{Env: []string{"A=image", "B=image", "GONE=image"}}
	c := &modelv1.ContainerSpec{Env: []string{"B=service", "C=x=y", "A=", "GONE"}, Tty: true}
	want := []string{defaultPath, "HOSTNAME=h", "TERM=xterm", "B=service", "C=x=y", "A="}
	if d := cmp.Diff(want, environment(img, c, "h")); d != "" {
		t.Errorf("want(-) got(+):\n%s", d)
	}
}

func TestCapabilities(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name      string
		add, drop []string
		want      string // beyond or instead of the defaults
		refused   string
	}{
		{name: "all are dropped, some are added", drop: []string{"all"}, add: []string{"net_raw", "CAP_SYS_TIME"}, want: "CAP_NET_RAW CAP_SYS_TIME"},
		{name: "nothing", drop: []string{"ALL"}},
		{name: "everything", add: []string{"ALL"}, refused: "ALL is refused"},
		{name: "nonsense", drop: []string{"FLY"}, refused: `cap drop: "FLY" is not a capability`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := capabilities(tt.add, tt.drop)
			if tt.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("%v, want %q", err, tt.refused)
				}
				return
			}
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("%q, %v; want %q", got, err, tt.want)
			}
		})
	}
	got, err := capabilities(nil, nil)
	if err != nil || !slices.Equal(got, defaultCaps) || slices.Contains(got, "CAP_MKNOD") || slices.Contains(got, "CAP_AUDIT_WRITE") {
		t.Errorf("by default %q, %v; want %q", got, err, defaultCaps)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const (
		isBind  = modelv1.MountType_MOUNT_TYPE_BIND
		isTmpfs = modelv1.MountType_MOUNT_TYPE_TMPFS
	)
	for _, tt := range []struct {
		name    string
		mount   *modelv1.Mount
		want    specs.Mount
		refused string
	}{
		{name: "bind", mount: &modelv1.Mount{Type: isBind, Source: dir, Target: "/x/"},
			want: specs.Mount{Type: "bind", Source: dir, Destination: "/x", Options: []string{"rbind", "rprivate", "rw"}}},
		{name: "a source that is made", mount: &modelv1.Mount{Type: isBind, Source: dir + "/new", Target: "/x", CreateSource: true, Propagation: "rshared"},
			want: specs.Mount{Type: "bind", Source: dir + "/new", Destination: "/x", Options: []string{"rbind", "rshared", "rw"}}},
		{name: "tmpfs", mount: &modelv1.Mount{Type: isTmpfs, Target: "/x", TmpfsSize: 4096, TmpfsMode: 0o700, ReadOnly: true},
			want: specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: "/x", Options: []string{"nosuid", "nodev", "noexec", "ro", "mode=700", "size=4096"}}},
		{name: "relative target", mount: &modelv1.Mount{Type: isTmpfs, Target: "x"}, refused: "absolute"},
		{name: "the root", mount: &modelv1.Mount{Type: isTmpfs, Target: "/x/.."}, refused: "root"},
		{name: "relative source", mount: &modelv1.Mount{Type: isBind, Source: "x", Target: "/x"}, refused: "absolute"},
		{name: "missing source", mount: &modelv1.Mount{Type: isBind, Source: dir + "/none", Target: "/x"}, refused: "no such file"},
		{name: "propagation", mount: &modelv1.Mount{Type: isBind, Source: dir, Target: "/x", Propagation: "loud"}, refused: `"loud"`},
		{name: "volume", mount: &modelv1.Mount{Type: modelv1.MountType_MOUNT_TYPE_VOLUME, Target: "/x"}, refused: "not supported"},
		{name: "no type", mount: &modelv1.Mount{Target: "/x"}, refused: "not known"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := mounts([]*modelv1.Mount{tt.mount})
			switch {
			case tt.refused != "":
				if err == nil || !strings.Contains(err.Error(), tt.refused) {
					t.Errorf("%v, want it refused with %q", err, tt.refused)
				}
			case err != nil:
				t.Error(err)
			default:
				if d := cmp.Diff([]specs.Mount{tt.want}, got); d != "" {
					t.Errorf("want(-) got(+):\n%s", d)
				}
			}
		})
	}
}

func TestTheServicesMountReplacesOurs(t *testing.T) {
	t.Parallel()
	ours := []specs.Mount{{Destination: "/etc/hosts"}, {Destination: "/etc/hostname"}}
	got := without(ours, []specs.Mount{{Destination: "/etc/hosts"}})
	if len(got) != 1 || got[0].Destination != "/etc/hostname" {
		t.Errorf("%v, want /etc/hostname only", got)
	}
}

func TestRlimits(t *testing.T) {
	t.Parallel()
	got, err := rlimits([]*modelv1.Ulimit{{Name: "memlock", Soft: -1, Hard: -1}, {Name: "nofile", Soft: 10, Hard: 20}})
	want := []specs.POSIXRlimit{
		{Type: "RLIMIT_MEMLOCK", Soft: ^uint64(0), Hard: ^uint64(0)},
		{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20},
	}
	if d := cmp.Diff(want, got); err != nil || d != "" {
		t.Errorf("%v; want(-) got(+):\n%s", err, d)
	}
	for _, bad := range []*modelv1.Ulimit{{Name: "patience"}, {Name: "core", Soft: 2, Hard: 1}} {
		if got, err := rlimits([]*modelv1.Ulimit{bad}); err == nil {
			t.Errorf("%v: %v, want an error", bad, got)
		}
	}
}

func TestHostsLine(t *testing.T) {
	t.Parallel()
	for entry, want := range map[string]string{
		"192.0.2.1 a b": "192.0.2.1\ta b\n",
		"a:192.0.2.1":   "192.0.2.1\ta\n",
		"a:2001:db8::1": "2001:db8::1\ta\n",
		"a:[::1]":       "::1\ta\n",
		"192.0.2.1":     "",
		"a b":           "",
		"":              "",
		":192.0.2.1":    "",
	} {
		got, err := hostsLine(entry)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v; want %q", entry, got, err, want)
		}
	}
}

// FuzzHostsLine holds that one entry is one line: nothing can be smuggled in.
func FuzzHostsLine(f *testing.F) {
	f.Add("192.0.2.1 a")
	f.Add("a:::1")
	f.Add("192.0.2.1 a\n192.0.2.2 b")
	f.Fuzz(func(t *testing.T, entry string) {
		got, err := hostsLine(entry)
		if err == nil && (strings.Count(got, "\n") != 1 || !strings.HasSuffix(got, "\n")) {
			t.Errorf("%q gives %q, want one line", entry, got)
		}
	})
}
