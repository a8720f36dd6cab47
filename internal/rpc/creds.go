package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"github.com/skep-project/skep/ca"
)

type transportCreds = credentials.TransportCredentials

// link is what the server knows of a connection: the AuthInfo of its peer.
type link struct {
	credentials.CommonAuthInfo
	// node is nil unless the peer proved a certificate of this cluster.
	node *ca.Identity
	// user is true on the unix socket; uid is then the peer's.
	user bool
	uid  uint32
	at   time.Time
	conn net.Conn // closed to cut a stream whose handler does not end
}

// AuthType names the way the peer was recognised.
func (*link) AuthType() string { return "skep" }

// tlsCreds does the handshake with the credential of the moment and reads the
// peer's identity once.
type tlsCreds struct{ transportCreds }

func newTLSCreds(h *ca.Holder, grace time.Duration) transportCreds {
	return tlsCreds{credentials.NewTLS(ServerTLS(h, grace))}
}

func (c tlsCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.transportCreds.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("handshake gave %T, want TLS", info), conn.Close())
	}
	l := &link{CommonAuthInfo: t.CommonAuthInfo, at: time.Now(), conn: conn}
	if certs := t.State.PeerCertificates; len(certs) > 0 {
		who, err := ca.FromCert(certs[0]) // ServerTLS has verified it
		if err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
		l.node = &who
	}
	return conn, l, nil
}

func (c tlsCreds) Clone() transportCreds { return tlsCreds{c.transportCreds.Clone()} }

// unixCreds recognises the process at the other end of a unix socket.
type unixCreds struct{}

func (unixCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	uid, err := peerUID(raw)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("unix socket: who is there: %w", err), raw.Close())
	}
	common := credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return raw, &link{CommonAuthInfo: common, user: true, uid: uid, at: time.Now(), conn: raw}, nil
}

func (unixCreds) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	common := credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
	return raw, &link{CommonAuthInfo: common, user: true, conn: raw}, nil
}

func (unixCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "unix"}
}

func (unixCreds) Clone() transportCreds { return unixCreds{} }

func (unixCreds) OverrideServerName(string) error { return nil }

func peerUID(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 0, fmt.Errorf("%T is not a unix socket", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) {
		cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, serr
	}
	return cred.Uid, nil
}

// ServerTLS returns the configuration of a node that is dialled. Whoever shows a
// certificate must hold one of this cluster, at most grace past its end; whoever
// shows none is Anyone. What the holder holds when a handshake happens counts,
// so renewals and new roots need no restart.
func ServerTLS(h *ca.Holder, grace time.Duration) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		ClientAuth:             tls.RequestClientCert, // verified below, against the roots of the moment
		SessionTicketsDisabled: true,                  // a resumed session would skip that
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			c := h.Get()
			if c == nil {
				return nil, errors.New("this node is in no cluster and has no certificate")
			}
			return c.TLS(), nil
		},
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			_, err := verify(h, state, grace)
			return err
		},
	}
}

// verify checks the peer's chain against the roots the holder holds now.
func verify(h *ca.Holder, state tls.ConnectionState, grace time.Duration) (ca.Identity, error) {
	c := h.Get()
	if c == nil {
		return ca.Identity{}, errors.New("this node is in no cluster and trusts no roots")
	}
	now := time.Now()
	who, err := c.Roots.Verify(state.PeerCertificates, now)
	if err != nil {
		late := errors.Is(err, ca.ErrClock) && now.After(who.NotAfter)
		if !late || now.After(who.NotAfter.Add(grace)) {
			return ca.Identity{}, err
		}
	}
	if who.Cluster != c.Identity.Cluster {
		return ca.Identity{}, fmt.Errorf("node %s is of cluster %s, this one is %s", who.Node, who.Cluster, c.Identity.Cluster)
	}
	return who, nil
}
