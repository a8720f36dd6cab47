package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// propagations are the words a bind mount may carry.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// mounts turns the service's mounts into the runtime's.
func mounts(asked []*modelv1.Mount) ([]specs.Mount, error) {
	var out []specs.Mount
	for _, m := range asked {
		made, err := mount(m)
		if err != nil {
			return nil, fmt.Errorf("mount at %q: %w", m.GetTarget(), err)
		}
		out = append(out, made)
	}
	return out, nil
}

func mount(m *modelv1.Mount) (specs.Mount, error) {
	target := path.Clean(m.GetTarget())
	switch {
	case !path.IsAbs(m.GetTarget()):
		return specs.Mount{}, errors.New("the target must be an absolute path")
	case target == "/":
		return specs.Mount{}, errors.New("the target must not be the root")
	}
	switch m.GetType() {
	case modelv1.MountType_MOUNT_TYPE_BIND:
		return bind(m, target)
	case modelv1.MountType_MOUNT_TYPE_TMPFS:
		return tmpfs(m, target), nil
	case modelv1.MountType_MOUNT_TYPE_VOLUME:
		return specs.Mount{}, errors.New("volumes are not supported by this version; use a bind mount")
	default:
		return specs.Mount{}, fmt.Errorf("type %v is not known to this version", m.GetType())
	}
}

func bind(m *modelv1.Mount, target string) (specs.Mount, error) {
	source := m.GetSource()
	if !filepath.IsAbs(source) {
		return specs.Mount{}, fmt.Errorf("source %q: want an absolute path", source)
	}
	propagation := or(m.GetPropagation(), "rprivate")
	if !slices.Contains(propagations, propagation) {
		return specs.Mount{}, fmt.Errorf("propagation %q: want one of %q", propagation, propagations)
	}
	_, err := os.Stat(source)
	if errors.Is(err, fs.ErrNotExist) && m.GetCreateSource() {
		err = os.MkdirAll(source, 0o755)
	}
	if err != nil {
		return specs.Mount{}, fmt.Errorf("source on this node: %w", err)
	}
	mode := access(m)
	if mode == "ro" && deepReadOnly() {
		mode = "rro"
	}
	return specs.Mount{Type: "bind", Source: source, Destination: target,
		Options: []string{"rbind", propagation, mode}}, nil
}

// deepReadOnly reports whether the kernel can make a mount read-only together
// with what is mounted below it (Linux 5.12).
func deepReadOnly() bool {
	return !errors.Is(unix.MountSetattr(-1, "", 0, &unix.MountAttr{}), unix.ENOSYS)
}

func tmpfs(m *modelv1.Mount, target string) specs.Mount {
	mode := uint64(m.GetTmpfsMode())
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{"nosuid", "nodev", "noexec", access(m), "mode=" + strconv.FormatUint(mode, 8)}
	if n := m.GetTmpfsSize(); n > 0 {
		options = append(options, "size="+strconv.FormatInt(n, 10))
	}
	return specs.Mount{Type: "tmpfs", Source: "tmpfs", Destination: target, Options: options}
}

func access(m *modelv1.Mount) string {
	if m.GetReadOnly() {
		return "ro"
	}
	return "rw"
}

// without returns ours less those whose target the service mounts itself.
func without(ours, theirs []specs.Mount) []specs.Mount {
	return slices.DeleteFunc(slices.Clone(ours), func(o specs.Mount) bool {
		return slices.ContainsFunc(theirs, func(t specs.Mount) bool { return t.Destination == o.Destination })
	})
}
