package control

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/sys/signal"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// The least a limit may be: below it nothing starts.
const (
	minMemory = 4 << 20
	minCPU    = 1_000_000 // a thousandth
)

// template checks and completes t, which is the caller's own.
func (f *faults) template(t *modelv1.TaskTemplate, d Decisions) {
	if t.GetContainer() == nil {
		t.Container = &modelv1.ContainerSpec{}
	}
	f.container(t.GetContainer())
	f.resources(t.GetReservations(), t.GetLimits())
	for _, c := range t.GetPlacement().GetConstraints() {
		f.wrong("constraint", d.Constraint(c))
	}
	for _, p := range t.GetPlacement().GetSpread() {
		f.wrong("placement preference", d.Spread(p))
	}
	size := proto.Size(t)
	f.check(size <= maxTemplateBytes, "the template takes %d bytes: at most %d", size, maxTemplateBytes)
}

func (f *faults) container(c *modelv1.ContainerSpec) {
	c.Image = f.image(c.GetImage())
	if c.GetStopGracePeriod() == 0 {
		c.StopGracePeriod = int64(defaultGrace)
	}
	f.wait("stop grace period", c.GetStopGracePeriod())
	if sig := c.GetStopSignal(); sig != "" {
		_, err := signal.ParseSignal(sig)
		f.wrong("stop signal", err)
	}
	f.check(c.GetDir() == "" || path.IsAbs(c.GetDir()) || templated(c.GetDir()), "working directory %q: want an absolute path", c.GetDir())
	f.check(c.GetHostname() == "" || templated(c.GetHostname()) || hostPattern.MatchString(c.GetHostname()), "hostname %q: want letters, digits, - and dots", c.GetHostname())
	for _, kv := range c.GetEnv() {
		key, _, _ := strings.Cut(kv, "=")
		f.check(key != "" && !strings.ContainsRune(kv, 0), "environment %q: want KEY=value", cut(key))
	}
	f.check(c.GetOomScoreAdj() >= -1000 && c.GetOomScoreAdj() <= 1000, "oom score %d: want -1000 to 1000", c.GetOomScoreAdj())
	f.labels("container label", c.GetLabels())
	f.labels("sysctl", c.GetSysctls())
	c.CapAdd, c.CapDrop = f.capabilities("add", c.GetCapAdd()), f.capabilities("drop", c.GetCapDrop())
	f.ulimits(c.GetUlimits())
	f.mounts(c.GetMounts())
}

var hostPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9.-]{0,251}[a-zA-Z0-9])?$`)

// templated reports whether the agent writes the text anew for each task.
func templated(text string) bool { return strings.Contains(text, "{{") }

// cut keeps a quoted text short.
func cut(text string) string { return text[:min(len(text), 60)] }

// image returns the image reference in full.
func (f *faults) image(typed string) string {
	if typed == "" {
		f.check(false, "image: missing")
		return ""
	}
	named, err := reference.ParseNormalizedNamed(typed)
	if err != nil {
		f.check(false, "image %q: %v", cut(typed), err)
		return typed
	}
	return reference.TagNameOnly(named).String()
}

func (f *faults) resources(reserved *modelv1.Resources, limits *modelv1.Limits) {
	for _, r := range []struct {
		what              string
		cpu, memory, pids int64
	}{
		{"reserved", reserved.GetNanoCpus(), reserved.GetMemoryBytes(), 0},
		{"limit of", limits.GetNanoCpus(), limits.GetMemoryBytes(), limits.GetPids()},
	} {
		f.check(r.cpu == 0 || r.cpu >= minCPU, "%s cpu %.4g: at least 0.001", r.what, float64(r.cpu)/1e9)
		f.check(r.memory == 0 || r.memory >= minMemory, "%s memory %d bytes: at least 4 MiB", r.what, r.memory)
		f.check(r.pids >= 0, "%s pids %d: want 0 or more", r.what, r.pids)
	}
	f.check(limits.GetNanoCpus() == 0 || reserved.GetNanoCpus() <= limits.GetNanoCpus(), "reserved cpu is more than its limit")
	f.check(limits.GetMemoryBytes() == 0 || reserved.GetMemoryBytes() <= limits.GetMemoryBytes(), "reserved memory is more than its limit")
}

// capabilities returns the names as the kernel has them; "ALL" is itself.
func (f *faults) capabilities(what string, names []string) []string {
	out := slices.Clone(names)
	for i, name := range out {
		up := strings.ToUpper(name)
		if up != "ALL" && !strings.HasPrefix(up, "CAP_") {
			up = "CAP_" + up
		}
		_, known := exec.Capability(name)
		f.check(known, "capability to %s %q: want a name like NET_ADMIN, or ALL", what, name)
		f.check(what != "add" || up != "ALL", "capability to add ALL: it is refused; name the capabilities that are needed")
		out[i] = up
	}
	return out
}

// ulimitNames are what the kernel limits.
var ulimitNames = []string{
	"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue",
	"nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (f *faults) ulimits(limits []*modelv1.Ulimit) {
	for _, l := range limits {
		f.check(slices.Contains(ulimitNames, l.GetName()), "ulimit %q: want one of %s", l.GetName(), strings.Join(ulimitNames, ", "))
		f.check(l.GetSoft() >= -1 && l.GetHard() >= -1 && (l.GetHard() == -1 || l.GetSoft() != -1 && l.GetSoft() <= l.GetHard()),
			"ulimit %s %d:%d: the soft limit is at most the hard one, -1 is none", l.GetName(), l.GetSoft(), l.GetHard())
	}
}

func (f *faults) mounts(mounts []*modelv1.Mount) {
	targets := make(map[string]bool)
	for _, m := range mounts {
		target := m.GetTarget()
		f.check(path.IsAbs(target) && path.Clean(target) != "/", "mount target %q: want an absolute path that is not /", target)
		f.check(!targets[path.Clean(target)], "mount target %s: it is mounted twice", target)
		targets[path.Clean(target)] = true
		f.wrong("mount at "+target, mountFault(m))
	}
}

// maxTmpfsMode is every permission bit there is.
const maxTmpfsMode = 0o7777

func mountFault(m *modelv1.Mount) error {
	switch m.GetType() {
	case modelv1.MountType_MOUNT_TYPE_BIND:
		if !path.IsAbs(m.GetSource()) && !templated(m.GetSource()) {
			return fmt.Errorf("bind source %q: want an absolute path", m.GetSource())
		}
	case modelv1.MountType_MOUNT_TYPE_TMPFS:
		if m.GetSource() != "" {
			return fmt.Errorf("a tmpfs has no source, %q was given", m.GetSource())
		}
		if m.GetTmpfsSize() < 0 || m.GetTmpfsMode() > maxTmpfsMode {
			return fmt.Errorf("tmpfs size %d, mode %o: want 0 or more, and at most %o", m.GetTmpfsSize(), m.GetTmpfsMode(), maxTmpfsMode)
		}
		return nil
	case modelv1.MountType_MOUNT_TYPE_VOLUME:
		if src := m.GetSource(); src != "" && !templated(src) && !volumePattern.MatchString(src) {
			return fmt.Errorf("volume %q: want letters, digits, _, . and -; a path needs type bind", src)
		}
	default:
		return fmt.Errorf("type %d: want bind, tmpfs or volume", m.GetType())
	}
	if m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
		return fmt.Errorf("tmpfs size and mode are for a tmpfs")
	}
	return nil
}

var volumePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
