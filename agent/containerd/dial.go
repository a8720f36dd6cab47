package containerd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"time"

	"github.com/containerd/containerd/v2/defaults"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"
)

// callTimeout bounds each question to containerd but those that last as long as
// they last (see lasting). One that is not answered in time counts as not
// answered at all.
const callTimeout = 30 * time.Second

// lasting are the calls that may take any time: the wait for a container's end,
// and what copies files.
var lasting = map[string]bool{
	"/containerd.services.tasks.v1.Tasks/Wait":             true,
	"/containerd.services.diff.v1.Diff/Apply":              true,
	"/containerd.services.snapshots.v1.Snapshots/Prepare":  true,
	"/containerd.services.snapshots.v1.Snapshots/View":     true,
	"/containerd.services.snapshots.v1.Snapshots/Commit":   true,
	"/containerd.services.snapshots.v1.Snapshots/Remove":   true,
	"/containerd.services.containers.v1.Containers/Delete": true,
	"/containerd.services.leases.v1.Leases/Delete":         true,
}

// errLate is the cause of a call's end by callTimeout.
var errLate = errors.New("no answer in time")

// dial returns a connection that comes back within a second of containerd.
func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithContextDialer(dialSocket),
		grpc.WithUnaryInterceptor(bound),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithDefaultCallOptions(
			grpc.MaxCallRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
			grpc.MaxCallSendMsgSize(defaults.DefaultMaxSendMsgSize)))
}

// How often a socket that is missing is looked for, at first and at last.
const firstLook, lastLook = 10 * time.Millisecond, time.Second

// dialSocket waits for the socket for as long as ctx lasts: containerd is often
// started at the same moment, and whoever asks is to hear what it knows and not that
// it is not there yet. It looks less and less often: within as long again as
// containerd was away, and within a second. The client's own dialer looks a hundred
// times a second all the time.
func dialSocket(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		conn, err := d.DialContext(ctx, "unix", path)
		if !errors.Is(err, fs.ErrNotExist) {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// bound gives up on a containerd that hangs.
func bound(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	if lasting[method] {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	ctx, stop := context.WithTimeoutCause(ctx, callTimeout, errLate)
	defer stop()
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil && errors.Is(context.Cause(ctx), errLate) {
		return grpcstatus.Error(codes.Unavailable, fmt.Sprintf("no answer to %s within %v", method, callTimeout))
	}
	return err
}
