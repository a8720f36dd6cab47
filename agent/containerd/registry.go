package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skep-project/skep/agent/exec"
)

// How long a registry may be silent: to accept a connection, to agree on TLS,
// to begin its answer, and between two pieces of a download.
const (
	dialTimeout   = 2 * time.Second
	tlsTimeout    = 3 * time.Second
	answerTimeout = 5 * time.Second
	idleTimeout   = 20 * time.Second
)

// resolveTimeout bounds the search for an image over all of its mirrors.
const resolveTimeout = 10 * time.Second

// bounded is a resolver that gives up after resolveTimeout.
type bounded struct{ remotes.Resolver }

func (b bounded) Resolve(ctx context.Context, ref string) (string, imagespec.Descriptor, error) {
	late := silent{host: registryOf(ref), after: resolveTimeout}
	ctx, stop := context.WithTimeoutCause(ctx, resolveTimeout, late)
	defer stop()
	name, desc, err := b.Resolver.Resolve(ctx, ref)
	if err != nil && errors.Is(context.Cause(ctx), late) {
		err = errors.Join(late, err)
	}
	return name, desc, err
}

// resolver finds and fetches images as containerd's own hosts.toml files say.
func (r *Runtime) resolver(ctx context.Context, creds credentials) remotes.Resolver {
	return bounded{docker.NewResolver(docker.ResolverOptions{
		Hosts: creds.bear(config.ConfigureHosts(ctx, config.HostOptions{
			HostDir:      config.HostDirFromRoot(r.cfg.HostsDir),
			Credentials:  creds.forHost,
			UpdateClient: impatient,
		})),
	})}
}

// impatient makes a registry client give up on a silent host.
func impatient(c *http.Client) error {
	t, ok := c.Transport.(*http.Transport)
	if !ok {
		return nil // it is the copy of a client that is impatient already
	}
	dial := t.DialContext
	t.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return idleConn{conn}, nil
	}
	t.TLSHandshakeTimeout = tlsTimeout
	t.ResponseHeaderTimeout = answerTimeout
	c.Transport = once{t}
	return nil
}

// idleConn fails a read that gets nothing for idleTimeout.
type idleConn struct{ net.Conn }

func (c idleConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(idleTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Read(p)
}

// once turns timeouts into errors that do not look like timeouts, because the
// resolver repeats those up to five times.
type once struct{ http.RoundTripper }

func (o once) RoundTrip(req *http.Request) (*http.Response, error) {
	begin := time.Now()
	resp, err := o.RoundTripper.RoundTrip(req)
	var timeout interface{ Timeout() bool }
	if err != nil && errors.As(err, &timeout) && timeout.Timeout() && req.Context().Err() == nil {
		return nil, silent{host: req.URL.Host, after: time.Since(begin)}
	}
	return resp, err
}

// silent says that a host did not answer. pullError looks for it.
type silent struct {
	host  string
	after time.Duration
}

func (s silent) Error() string {
	return fmt.Sprintf("%s did not answer within %v", s.host, s.after.Round(100*time.Millisecond))
}

// pullError says what the registry answered. Every answer rejects the task, so
// that the orchestrator can choose another node or try later; only a containerd
// that is away or a cancelled pull does not.
func pullError(ref string, creds credentials, err error) error {
	var (
		mute   silent
		status remoteerrors.ErrUnexpectedStatus
		dialed *net.OpError
		asked  *url.Error
	)
	at, image := registryOf(ref), "image "+familiar(ref)
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("pull image %s: %w", ref, err)
	case errors.As(err, &mute):
		return exec.Rejected(fmt.Errorf("%s: registry %w", image, mute))
	case errors.As(err, &dialed) && dialed.Op == "dial" && dialed.Net != "unix":
		return exec.Rejected(fmt.Errorf("%s: registry %s cannot be reached: %w", image, at, dialed))
	case errors.Is(err, docker.ErrInvalidAuthorization), errors.As(err, &status) && refused(status):
		return exec.Rejected(fmt.Errorf("%s: registry %s refuses %s", image, at, creds.refused(at)))
	case errors.As(err, &status):
		return exec.Rejected(fmt.Errorf("%s: registry %s answers %q", image, at, status.Status))
	case errors.As(err, &asked):
		return exec.Rejected(fmt.Errorf("%s: registry %s: %w", image, at, asked))
	case exec.Unavailable(err):
		return fmt.Errorf("pull image %s: %w: %w", ref, exec.ErrUnavailable, err)
	case errdefs.IsNotFound(err):
		if strings.Contains(err.Error(), "no match for platform") {
			return exec.Rejected(fmt.Errorf("%s: registry %s has it, but not for %s", image, at, platforms.DefaultString()))
		}
		return exec.Rejected(fmt.Errorf("no such %s: registry %s does not have it", image, at))
	default:
		return exec.Rejected(fmt.Errorf("%s: %w", image, err))
	}
}

func refused(s remoteerrors.ErrUnexpectedStatus) bool {
	return s.StatusCode == http.StatusUnauthorized || s.StatusCode == http.StatusForbidden
}

// familiar returns a reference as people type it, for words: what a list cuts is
// the end of a sentence.
func familiar(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.FamiliarString(named)
}

// registryOf returns the host that a reference names, for words.
func registryOf(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "of " + ref
	}
	return reference.Domain(named)
}
