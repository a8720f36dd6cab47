package containerd

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// cpuPeriod is the time in microseconds over which CPU limits are enforced.
const cpuPeriod = 100_000

// defaultCaps is Docker's list less MKNOD, which makes device files, and
// AUDIT_WRITE, which writes into the host's audit log. NET_RAW stays: ping.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID",
	"CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// capabilities returns the default capabilities without those dropped and with
// those added, which win. "ALL" in drop drops all defaults.
func capabilities(add, drop []string) ([]string, error) {
	dropped, err := capNames(drop)
	if err != nil {
		return nil, fmt.Errorf("cap drop: %w", err)
	}
	added, err := capNames(add)
	if err != nil {
		return nil, fmt.Errorf("cap add: %w", err)
	}
	if slices.Contains(added, exec.AllCapabilities) {
		return nil, fmt.Errorf("cap add: ALL is refused; name the capabilities that are needed")
	}
	var caps []string
	if !slices.Contains(dropped, exec.AllCapabilities) {
		caps = slices.DeleteFunc(slices.Clone(defaultCaps), func(c string) bool { return slices.Contains(dropped, c) })
	}
	caps = append(caps, added...)
	slices.Sort(caps)
	return slices.Compact(caps), nil
}

// capNames returns names in the kernel's spelling: "net_raw" is "CAP_NET_RAW".
func capNames(names []string) ([]string, error) {
	var out []string
	for _, name := range names {
		full, known := exec.Capability(name)
		if !known {
			return nil, fmt.Errorf("%q is not a capability", name)
		}
		out = append(out, full)
	}
	return out, nil
}

// withResources sets what the cgroup enforces. A memory limit bounds memory and
// swap together where the kernel can, so that a limit is a limit.
func withResources(l *modelv1.Limits) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		res := s.Linux.Resources
		if n := l.GetNanoCpus(); n > 0 {
			period := uint64(cpuPeriod)
			quota := max(n/(1e9/cpuPeriod), 1000) // the kernel's least is 1 ms
			res.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
		}
		if n := l.GetMemoryBytes(); n > 0 {
			res.Memory = &specs.LinuxMemory{Limit: &n}
			if swapLimited(cgroupRoot) {
				res.Memory.Swap = &n
			}
		}
		if n := l.GetPids(); n > 0 {
			res.Pids = &specs.LinuxPids{Limit: &n}
		}
		return nil
	}
}

// ulimits maps the names people use to the kernel's.
var ulimits = map[string]string{
	"as": "RLIMIT_AS", "core": "RLIMIT_CORE", "cpu": "RLIMIT_CPU", "data": "RLIMIT_DATA",
	"fsize": "RLIMIT_FSIZE", "locks": "RLIMIT_LOCKS", "memlock": "RLIMIT_MEMLOCK",
	"msgqueue": "RLIMIT_MSGQUEUE", "nice": "RLIMIT_NICE", "nofile": "RLIMIT_NOFILE",
	"nproc": "RLIMIT_NPROC", "rss": "RLIMIT_RSS", "rtprio": "RLIMIT_RTPRIO",
	"rttime": "RLIMIT_RTTIME", "sigpending": "RLIMIT_SIGPENDING", "stack": "RLIMIT_STACK",
}

// openFiles is the default bound on open files: low for programs that look at
// the soft limit, high for those that raise it, and never above our own, which
// runc might not be allowed to exceed.
func openFiles() specs.POSIXRlimit {
	l := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}
	var own unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &own) == nil {
		l.Hard = min(l.Hard, own.Max)
		l.Soft = min(l.Soft, l.Hard)
	}
	return l
}

// rlimits returns the process limits: what the service asks for, and always a
// bound on open files that is high enough for a server. -1 is no limit.
func rlimits(asked []*modelv1.Ulimit) ([]specs.POSIXRlimit, error) {
	set := map[string]specs.POSIXRlimit{
		"RLIMIT_NOFILE": openFiles(),
	}
	for _, u := range asked {
		name, ok := ulimits[strings.ToLower(u.GetName())]
		if !ok {
			return nil, fmt.Errorf("ulimit %q: no such limit", u.GetName())
		}
		set[name] = specs.POSIXRlimit{Type: name, Soft: uint64(u.GetSoft()), Hard: uint64(u.GetHard())}
		if set[name].Soft > set[name].Hard {
			return nil, fmt.Errorf("ulimit %s: soft limit %d is above the hard limit %d", u.GetName(), u.GetSoft(), u.GetHard())
		}
	}
	var out []specs.POSIXRlimit
	for _, l := range set {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b specs.POSIXRlimit) int { return strings.Compare(a.Type, b.Type) })
	return out, nil
}
