package containerd

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// defaultPath is the search path of a container whose image names none.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// specOpts returns what makes the OCI spec of a task's container: Docker's
// defaults, narrowed (see capabilities), then what the template asks for.
// host are the files of this task that are mounted into it.
func (r *Runtime) specOpts(s exec.Spec, tmpl *modelv1.TaskTemplate, img imagespec.ImageConfig, host []specs.Mount) ([]oci.SpecOpts, error) {
	c := tmpl.GetContainer()
	argv, err := arguments(img, c)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(c.GetCapAdd(), c.GetCapDrop())
	if err != nil {
		return nil, err
	}
	mounts, err := mounts(c.GetMounts())
	if err != nil {
		return nil, err
	}
	limits, err := rlimits(c.GetUlimits())
	if err != nil {
		return nil, err
	}
	hostname := or(c.GetHostname(), s.Task.Short())
	opts := []oci.SpecOpts{
		oci.WithDefaultUnixDevices,
		oci.WithProcessArgs(argv...),
		oci.WithEnv(environment(img, c, hostname)),
		oci.WithProcessCwd(workdir(img, c)),
		oci.WithHostname(hostname),
		oci.WithHostNamespace(specs.NetworkNamespace),
		oci.WithCgroup(r.cgroup(s.Task)),
		oci.WithNoNewPrivileges,
		oci.WithMounts(without(append(host, cgroupMount), mounts)),
		oci.WithMounts(mounts),
		withUser(or(c.GetUser(), img.User), c.GetGroups()),
		oci.WithCapabilities(caps),
		withProcess(c, limits),
		withResources(tmpl.GetLimits()),
		withSysctls(c.GetSysctls()),
	}
	if unified(cgroupRoot) {
		opts = append(opts, oci.WithNamespacedCgroup())
	}
	if c.GetTty() {
		opts = append(opts, oci.WithTTY)
	}
	if c.GetReadOnly() {
		opts = append(opts, oci.WithRootFSReadonly())
	}
	// The profile depends on the capabilities, so it comes last.
	return append(opts, seccomp.WithDefaultProfile()), nil
}

// cgroup returns the path of a task's cgroup below the root of each hierarchy.
func (r *Runtime) cgroup(task id.ID) string {
	return path.Join(r.cfg.CgroupParent, task.String())
}

// arguments returns the command line: command replaces the image's entrypoint
// and its arguments, args replaces only the latter.
func arguments(img imagespec.ImageConfig, c *modelv1.ContainerSpec) ([]string, error) {
	entry, args := img.Entrypoint, img.Cmd
	if len(c.GetCommand()) > 0 {
		entry, args = c.GetCommand(), nil
	}
	if len(c.GetArgs()) > 0 {
		args = c.GetArgs()
	}
	argv := slices.Concat(entry, args)
	if len(argv) == 0 {
		return nil, fmt.Errorf("image %s names no command to run and the service gives none", c.GetImage())
	}
	return argv, nil
}

// environment returns the image's variables and then the service's, of which
// the last with a name counts.
func environment(img imagespec.ImageConfig, c *modelv1.ContainerSpec, hostname string) []string {
	env := []string{defaultPath, "HOSTNAME=" + hostname}
	if c.GetTty() {
		env = append(env, "TERM=xterm")
	}
	env = slices.Concat(env, img.Env, c.GetEnv())
	last := map[string]int{}
	for i, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		last[name] = i
	}
	var out []string
	for _, i := range slices.Sorted(maps.Values(last)) {
		if strings.Contains(env[i], "=") { // a name alone takes the variable away
			out = append(out, env[i])
		}
	}
	return out
}

func workdir(img imagespec.ImageConfig, c *modelv1.ContainerSpec) string {
	return path.Join("/", or(c.GetDir(), img.WorkingDir))
}

// withUser sets who the process runs as, by the names that the image's own
// /etc/passwd and /etc/group know.
func withUser(user string, groups []string) oci.SpecOpts {
	return func(ctx context.Context, cl oci.Client, c *containers.Container, s *specs.Spec) error {
		if user == "" {
			user = "0"
		}
		if err := oci.WithUser(user)(ctx, cl, c, s); err != nil {
			return fmt.Errorf("user %q: %w", user, err)
		}
		name, _, group := strings.Cut(user, ":")
		if !group {
			if err := oci.WithAdditionalGIDs(name)(ctx, cl, c, s); err != nil {
				return fmt.Errorf("groups of user %q: %w", name, err)
			}
		}
		if len(groups) == 0 {
			return nil
		}
		if err := oci.WithAppendAdditionalGroups(groups...)(ctx, cl, c, s); err != nil {
			return fmt.Errorf("groups %q: %w", groups, err)
		}
		return nil
	}
}

// withProcess sets the limits and the standing of the process itself. The OOM
// score is always set: otherwise a container would inherit containerd's, which
// protects containerd.
func withProcess(c *modelv1.ContainerSpec, limits []specs.POSIXRlimit) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		score := int(c.GetOomScoreAdj())
		s.Process.OOMScoreAdj = &score
		s.Process.Rlimits = limits
		return nil
	}
}

// withSysctls sets kernel settings of the container's own namespaces.
func withSysctls(values map[string]string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		for name, value := range values {
			if exec.HostSysctl(name) {
				return fmt.Errorf("sysctl %s: the task shares the host's network, whose settings it may not change", name)
			}
			if s.Linux.Sysctl == nil {
				s.Linux.Sysctl = map[string]string{}
			}
			s.Linux.Sysctl[name] = value
		}
		return nil
	}
}
