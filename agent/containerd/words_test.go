package containerd

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/agent/exec"
)

// A list of tasks shows the first thirty cells of a rejection: they must be the
// cause, not the task's own id or the registry that every image comes from.
func TestARejectionBeginsWithItsCause(t *testing.T) {
	t.Parallel()
	const ref = "docker.io/library/alpine:nope"
	c := &controller{}
	runc := "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
	for _, tt := range []struct {
		err  error
		want string
	}{
		{pullError(ref, errdefs.ErrNotFound), "no such image alpine:nope: registry docker.io does not have it"},
		{pullError(ref, fmt.Errorf("no match for platform in manifest: %w", errdefs.ErrNotFound)), "image alpine:nope: registry docker.io has it, but not for "},
		{pullError(ref, errors.New("layer is broken")), "image alpine:nope: layer is broken"},
		{c.creating(errors.New(`user "ghost": no users found`)), `user "ghost": no users found`},
		{c.starting(errors.New(runc + `exec: "/nope": no such file`)), `exec: "/nope": no such file`},
	} {
		if !errors.Is(tt.err, exec.ErrRejected) || !strings.HasPrefix(tt.err.Error(), tt.want) {
			t.Errorf("%v; want it rejected, and to begin with %q", tt.err, tt.want)
		}
	}
}
