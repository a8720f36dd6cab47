package containerd

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/internal/sealed"
)

// A list of tasks shows the first thirty cells of a rejection: they must be the
// cause, not the task's own id or the registry that every image comes from.
func TestARejectionBeginsWithItsCause(t *testing.T) {
	t.Parallel()
	const ref = "docker.io/library/alpine:nope"
	c := &controller{}
	var none credentials
	bee := credentials{host: "registry-1.docker.io", user: "bee", secret: sealed.NewSecret([]byte("hunter2"))}
	token := credentials{host: "registry-1.docker.io", bearer: sealed.NewSecret([]byte("hunter2"))}
	forbidden := remoteerrors.ErrUnexpectedStatus{StatusCode: http.StatusForbidden, Status: "403 Forbidden"}
	runc := "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
	for _, tt := range []struct {
		err  error
		want string
	}{
		{pullError(ref, none, errdefs.ErrNotFound), "no such image alpine:nope: registry docker.io does not have it"},
		{pullError(ref, none, fmt.Errorf("no match for platform in manifest: %w", errdefs.ErrNotFound)), "image alpine:nope: registry docker.io has it, but not for "},
		{pullError(ref, none, errors.New("layer is broken")), "image alpine:nope: layer is broken"},
		{pullError(ref, none, docker.ErrInvalidAuthorization), "image alpine:nope: registry docker.io refuses access without credentials: no such repository, or it is private; "},
		{pullError(ref, bee, docker.ErrInvalidAuthorization), "image alpine:nope: registry docker.io refuses user bee: the password is wrong or has expired, "},
		{pullError(ref, token, forbidden), "image alpine:nope: registry docker.io refuses the token it was shown: it is wrong or has expired, "},
		{c.creating(errors.New(`user "ghost": no users found`)), `user "ghost": no users found`},
		{c.starting(errors.New(runc + `exec: "/nope": no such file`)), `exec: "/nope": no such file`},
	} {
		if !errors.Is(tt.err, exec.ErrRejected) || !strings.HasPrefix(tt.err.Error(), tt.want) {
			t.Errorf("%v; want it rejected, and to begin with %q", tt.err, tt.want)
		}
		if refused := strings.Contains(tt.err.Error(), " refuses "); strings.Contains(tt.err.Error(), "hunter2") ||
			refused != strings.HasSuffix(tt.err.Error(), `log in with "docker login docker.io", then "ctl service update --with-registry-auth SERVICE"`) {
			t.Errorf("%v; want what to do after a refusal, and never the secret", tt.err)
		}
	}
}
