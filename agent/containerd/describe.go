package containerd

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	goruntime "runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go/features"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// runcVersion is the annotation of a runtime's features that tells runc's version.
const runcVersion = "org.opencontainers.runc.version"

// Describe tells what the host has and which runtime serves it.
func (r *Runtime) Describe(ctx context.Context) (*modelv1.NodeDescription, error) {
	ctx = r.ours(ctx)
	version, err := r.client.Version(ctx)
	if err != nil {
		return nil, r.words("describe node", err)
	}
	memory, err := memoryTotal("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("describe node: %w", err)
	}
	// Without a release's build stamp it ends in "+unknown", a distribution's in "~ds1".
	number, _, _ := strings.Cut(strings.TrimPrefix(version.Version, "v"), "+")
	words := "containerd " + number
	if v := r.runcVersion(ctx); v != "" {
		words += ", runc " + v
	}
	return &modelv1.NodeDescription{
		Os:           goruntime.GOOS,
		Architecture: goruntime.GOARCH,
		Runtime:      words,
		Resources: &modelv1.Resources{
			NanoCpus:    int64(goruntime.NumCPU()) * 1e9,
			MemoryBytes: memory,
		},
	}, nil
}

// runcVersion asks containerd which runc it runs; empty if it cannot tell, as
// containerd before 2.0.
func (r *Runtime) runcVersion(ctx context.Context) string {
	info, err := r.client.RuntimeInfo(ctx, runcRuntime, nil)
	if err != nil {
		return ""
	}
	f, ok := info.Features.(*features.Features)
	if !ok {
		return ""
	}
	return f.Annotations[runcVersion]
}

// memoryTotal reads the host's memory in bytes from a file like /proc/meminfo.
func memoryTotal(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 && kib > 0 && kib <= math.MaxInt64>>10 {
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("%s: no line MemTotal", path)
}
