package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	taskapi "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skep-project/skep/agent/exec"
)

// A Remain is a container that ended while no containerd was there to see it.
// Its shim still knows how; a containerd that starts would dismiss the shim and
// forget it.
type Remain struct {
	namespace, container string
	exit                 exec.Exit
}

// Remains asks the shims of a containerd that does not run. dir is where that
// keeps the bundles of its containers. A shim that does not answer is passed
// over.
func Remains(ctx context.Context, dir string) []Remain {
	bundles, _ := filepath.Glob(filepath.Join(dir, "*", "*")) // the pattern is well formed
	var out []Remain
	for _, bundle := range bundles {
		name := filepath.Base(bundle)
		end, err := remainOf(ctx, bundle, name)
		if err != nil || end == nil {
			continue
		}
		out = append(out, Remain{namespace: filepath.Base(filepath.Dir(bundle)), container: name, exit: *end})
	}
	return out
}

// remainOf returns how the container of a bundle ended; nil if it has not.
func remainOf(ctx context.Context, bundle, name string) (*exec.Exit, error) {
	address, version, err := shimAddress(bundle)
	if err != nil {
		return nil, err
	}
	conn, err := net.DialTimeout("unix", address, retry)
	if err != nil {
		return nil, err
	}
	cl := ttrpc.NewClient(conn)
	defer cl.Close() //nolint:errcheck // only asked
	ctx, stop := context.WithTimeout(ctx, 2*time.Second)
	defer stop()
	end, err := stateOf(ctx, cl, version, name)
	if err == nil && end != nil {
		end.OOM = end.Code != 0 && oomKills(cgroupRoot, bundleCgroup(bundle)) > 0
	}
	return end, err
}

// stateOf asks a shim whether and how its container ended.
func stateOf(ctx context.Context, cl *ttrpc.Client, version int, name string) (*exec.Exit, error) {
	if version >= 3 {
		resp, err := taskv3.NewTTRPCTaskClient(cl).State(ctx, &taskv3.StateRequest{ID: name})
		if err != nil || resp.GetStatus() != taskapi.Status_STOPPED {
			return nil, err
		}
		return shimExit(resp.GetExitStatus(), resp.GetExitedAt().AsTime()), nil
	}
	resp, err := taskv2.NewTTRPCTaskClient(cl).State(ctx, &taskv2.StateRequest{ID: name})
	if err != nil || resp.GetStatus() != taskapi.Status_STOPPED {
		return nil, err
	}
	return shimExit(resp.GetExitStatus(), resp.GetExitedAt().AsTime()), nil
}

// bundleCgroup returns the cgroup a bundle's configuration names.
func bundleCgroup(bundle string) string {
	var spec specs.Spec
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil || json.Unmarshal(data, &spec) != nil || spec.Linux == nil {
		return ""
	}
	return spec.Linux.CgroupsPath
}

// Keep writes down, in the containerd at address, how containers ended in its
// absence.
func Keep(ctx context.Context, address string, remains []Remain) error {
	if len(remains) == 0 {
		return nil
	}
	conn, err := dial(address)
	if err != nil {
		return err
	}
	cl, err := client.NewWithConn(conn)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	defer cl.Close() //nolint:errcheck // every answer has been read
	var errs []error
	for _, r := range remains {
		if err := r.keep(namespaces.WithNamespace(ctx, r.namespace), cl); err != nil {
			errs = append(errs, fmt.Errorf("write down the exit of container %s: %w", r.container, err))
		}
	}
	return errors.Join(errs...)
}

func (r Remain) keep(ctx context.Context, cl *client.Client) error {
	found, err := cl.LoadContainer(ctx, r.container)
	if err != nil {
		return ignoreNotFound(err)
	}
	labels, err := found.Labels(ctx)
	if err != nil || labels[exec.LabelTask] == "" || exitOf(labels) != nil {
		return ignoreNotFound(err) // not one of ours, or known already
	}
	_, err = found.SetLabels(ctx, exitLabels(r.exit))
	return ignoreNotFound(err)
}
