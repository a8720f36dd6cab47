package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Peer is the manager that a client means to reach (R15).
type Peer struct {
	// Node is its id; zero means any manager of the cluster.
	Node id.ID
	// Keys are the digests of its key as the newest list says. Empty: any.
	Keys []ca.Digest
	// ListedAt is when that list was received: a certificate issued later may
	// have another key. Zero: the keys are all there are.
	ListedAt time.Time
	// Grace is how long past its end the peer's certificate is taken: for Raft
	// traffic and for a manager's own renewal (R14). Zero: not at all.
	Grace time.Duration
	// Untimely is called, and must not block, when the peer's certificate is refused
	// because it ended, by the clock of this host. May be nil.
	Untimely func()
}

// AskClock is a Peer whose certificate may be out of its time, as that of p may not:
// it may be asked for its clock, and is told nothing.
func (p Peer) AskClock() Peer {
	p.Grace, p.Untimely = anyTime, nil
	return p
}

// ClientTLS returns the configuration of a node that dials the manager want: the
// certificate must be of this cluster and a manager's, whatever the address. The
// node's own certificate is the holder's when the handshake happens.
func ClientTLS(h *ca.Holder, want Peer) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// Names of hosts prove nothing here: VerifyConnection does the whole work.
		InsecureSkipVerify: true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c := h.Get(); c != nil {
				return c.TLS(), nil
			}
			return &tls.Certificate{}, nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			who, err := verify(h, state, want.Grace)
			if err != nil {
				if errors.Is(err, ca.ErrClock) && want.Untimely != nil {
					want.Untimely()
				}
				return err
			}
			return want.check(who)
		},
	}
}

func (p Peer) check(who ca.Identity) error {
	switch {
	case who.Role != modelv1.Role_ROLE_MANAGER:
		return fmt.Errorf("node %s answers with a worker's certificate, want a manager", who.Node)
	case !p.Node.IsZero() && who.Node != p.Node:
		return fmt.Errorf("node %s answers, want %s", who.Node, p.Node)
	case len(p.Keys) == 0 || slices.Contains(p.Keys, who.KeySHA256):
		return nil
	case !p.ListedAt.IsZero() && issued(who).Add(listSlack).After(p.ListedAt):
		return nil
	}
	return fmt.Errorf("node %s answers with a key that the list of managers does not hold", who.Node)
}

// listSlack is by how much a certificate may seem to be older than the list that
// does not know it: it tells seconds only, two clocks are compared, and a rotation of
// the root has all managers renew at once, those that every list names. A list holds
// a manager's last two keys, so this lets in nothing that was superseded longer ago.
const listSlack = time.Minute

// issued works out when a certificate was signed: its life begins Backdate
// earlier.
func issued(who ca.Identity) time.Time {
	total := who.NotAfter.Sub(who.NotBefore)
	if back := ca.Backdate(10 * time.Hour); total >= 11*back {
		return who.NotBefore.Add(back)
	}
	return who.NotBefore.Add(total / 11)
}

// Dial returns a connection to the daemon at address (host:port), made when it
// is first used and again whenever it breaks. Errors of calls come back as kinds
// of errdefs, with the server's text.
func Dial(address string, config *tls.Config, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	return DialWith(address, credentials.NewTLS(config), more...)
}

// DialWith is Dial with any transport credentials.
func DialWith(address string, creds credentials.TransportCredentials, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+address, append(dialOptions(mindful{creds}), more...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return conn, nil
}

// DialUnix returns a connection to the daemon that listens on the socket path.
func DialUnix(path string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	dial := grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	})
	// The name is what errors show; the dialer does not look at it.
	conn, err := grpc.NewClient("passthrough:///"+path, append(append(dialOptions(unixCreds{}), dial, Probing()), more...)...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", path, err)
	}
	return conn, nil
}

// Through returns the option of a connection that is made by dial instead of the
// net package. Nil is no option.
func Through(dial func(ctx context.Context, address string) (net.Conn, error)) []grpc.DialOption {
	if dial == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithContextDialer(dial)}
}

// connectTime bounds the making of a connection, so that a call does not wait
// for a dark host as long as it may wait for an answer.
const connectTime = 3 * time.Second

// Patiently returns the option of a connection whose making is bounded by its
// calls alone: for those who would rather wait than ask again.
func Patiently() grpc.DialOption {
	return grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: time.Minute})
}

// Probing returns the option of a connection that breaks when its peer has not
// answered for 15 s, though the peer's kernel may: its process stands still. gRPC counts
// by the time of day, and takes a peer for gone when that is set back: this is for a
// command, which then asks anew. A daemon finds such a peer out by what it says and
// does not say, beats and votes, and keeps its connections.
func Probing() grpc.DialOption {
	return grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true})
}

var reconnect = backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}

func dialOptions(creds transportCreds) []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithAuthority("skep"),
		grpc.WithReadBufferSize(readBuffer(creds)),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithChainUnaryInterceptor(clientUnary),
		grpc.WithChainStreamInterceptor(clientStream),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           reconnect,
			MinConnectTimeout: connectTime,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)),
	}
}

func clientUnary(ctx context.Context, method string, req, resp any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return fromStatus(next(ctx, method, req, resp, cc, opts...))
}

func clientStream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, fromStatus(err)
	}
	return nativeStream{s}, nil
}

// nativeStream is a client's stream whose errors are kinds of errdefs; io.EOF
// stays what it is.
type nativeStream struct{ grpc.ClientStream }

func (s nativeStream) RecvMsg(m any) error { return nativeEOF(s.ClientStream.RecvMsg(m)) }
func (s nativeStream) SendMsg(m any) error { return nativeEOF(s.ClientStream.SendMsg(m)) }
func (s nativeStream) CloseSend() error    { return nativeEOF(s.ClientStream.CloseSend()) }

func nativeEOF(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return fromStatus(err)
}
