package rpc

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/credentials"

	"github.com/skep-project/skep/ca"
)

const (
	// maxStrangers bounds the open connections without a certificate, and
	// strangerLife how long each of them may last.
	maxStrangers = 512
	strangerLife = time.Minute
)

type transportCreds = credentials.TransportCredentials

// readBuffer is how much of a connection gRPC reads ahead, in bytes. TLS keeps the
// record that it has opened, and a buffer over that would be one more for each node.
func readBuffer(creds transportCreds) int {
	if _, plain := creds.(unixCreds); plain {
		return 4 << 10
	}
	return 0
}

// link is what the server knows of a connection: the AuthInfo of its peer.
type link struct {
	credentials.CommonAuthInfo
	// node is nil unless the peer proved a node's certificate of this cluster, and
	// person unless he proved a user's.
	node   *ca.Identity
	person *ca.UserIdentity
	// user is true on the unix socket; uid is then the peer's.
	user bool
	uid  uint32
	at   time.Time
	conn net.Conn // closed to cut a stream whose handler does not end
	// open is how many calls are under way on it.
	open atomic.Int64
}

// AuthType names the way the peer was recognised.
func (*link) AuthType() string { return "skep" }

// tlsCreds does the handshake with the credential of the moment and reads the
// peer's identity once.
type tlsCreds struct {
	transportCreds
	*doorway
}

// doorway counts who is at the door and who came in by it.
type doorway struct {
	log *slog.Logger
	// warned has a crowd at the door write one record a second.
	warned rate.Sometimes
	// shaking is by address, holders by the key of the certificate, and strangers
	// are those who have none.
	shaking   crowd[string]
	holders   crowd[ca.Digest]
	strangers crowd[struct{}]
	// rota is by whose turns handshakes are done.
	rota *rota
}

func newTLSCreds(h *ca.Holder, log *slog.Logger) transportCreds {
	return tlsCreds{credentials.NewTLS(ServerTLS(h)), &doorway{
		log: log, warned: rate.Sometimes{Interval: time.Second}, rota: newRota(turnsOf(runtime.GOMAXPROCS(0)))}}
}

func (c tlsCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	address := raw.RemoteAddr().String()
	done, ok := c.shaking.enter(BucketOf(hostOf(address)), handshakes)
	if !ok {
		return nil, nil, c.turnAway(raw, address, fmt.Errorf("%d of its connections have not said who they are", handshakes))
	}
	defer done()
	if err := mindSilence(raw); err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	turns := &turntaker{Conn: raw, rota: c.rota, until: time.Now().Add(handshakeTime)}
	conn, info, err := c.transportCreds.ServerHandshake(turns)
	turns.end()
	if err != nil {
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok {
		return nil, nil, errors.Join(fmt.Errorf("handshake gave %T, want TLS", info), conn.Close())
	}
	l := &link{CommonAuthInfo: t.CommonAuthInfo, at: time.Now(), conn: conn}
	certs := t.State.PeerCertificates
	if len(certs) > 0 {
		if err := l.recognise(certs[0]); err != nil {
			return nil, nil, errors.Join(err, conn.Close())
		}
	}
	if l.conn, err = c.place(conn, l); err != nil {
		return nil, nil, c.turnAway(conn, address, err)
	}
	return l.conn, l, nil
}

// turnAway closes a connection and says why: whoever is there is told nothing.
func (d *doorway) turnAway(conn net.Conn, address string, why error) error {
	d.warned.Do(func() { d.log.Warn("connection turned away", slog.String("addr", address), slog.Any("err", why)) })
	return errors.Join(why, conn.Close())
}

// place counts a connection, unless there are as many of its kind as may be.
func (d *doorway) place(conn net.Conn, l *link) (net.Conn, error) {
	if l.node == nil && l.person == nil {
		return d.stranger(conn)
	}
	key, most, ok := l.placeOf()
	if !ok {
		return conn, nil
	}
	leave, ok := d.holders.enter(key, most)
	if !ok {
		return nil, fmt.Errorf("%s has %d connections open, and no more are taken", l.what(), most)
	}
	return &counted{Conn: conn, leave: leave}, nil
}

// recognise reads whose a certificate is, which ServerTLS has verified.
func (l *link) recognise(cert *x509.Certificate) error {
	if ca.IsUser(cert) {
		who, err := ca.UserFromCert(cert)
		l.person = &who
		return err
	}
	who, err := ca.FromCert(cert)
	l.node = &who
	return err
}

func (c tlsCreds) Clone() transportCreds { return tlsCreds{c.transportCreds.Clone(), c.doorway} }

// stranger counts a connection without a certificate and bounds what it may send and
// its life: it is there for one enrolment.
func (d *doorway) stranger(conn net.Conn) (net.Conn, error) {
	leave, ok := d.strangers.enter(struct{}{}, maxStrangers)
	if !ok {
		return nil, fmt.Errorf("%d connections without a certificate are open, no more are taken", maxStrangers)
	}
	s := &strangerConn{counted: counted{Conn: conn, leave: leave}}
	s.left.Store(strangerBytes)
	s.end.Store(time.AfterFunc(strangerLife, func() { _ = s.Close() }))
	return s, nil
}

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

// peerUID asks the kernel who is at the other end. A connection that knows it
// itself, because its listener is not the kernel's, is taken at its word: the
// listener is the daemon's own.
func peerUID(c net.Conn) (uint32, error) {
	if k, ok := c.(interface{ PeerUID() (uint32, error) }); ok {
		return k.PeerUID()
	}
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
// certificate must hold one of this cluster; whoever shows none is Anyone. A
// certificate that is out of its time is let in to be told so: its calls are judged
// by the time. What the holder holds when a handshake happens counts, so renewals
// and new roots need no restart.
func ServerTLS(h *ca.Holder) *tls.Config {
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
			if ca.IsUser(state.PeerCertificates[0]) {
				_, err := verifyUser(h, state)
				return err
			}
			_, err := verify(h, state, anyTime)
			return err
		},
	}
}

// anyTime is a grace that never ends.
const anyTime time.Duration = math.MaxInt64

// verify checks the peer's chain against the roots the holder holds now. A
// certificate that ended is taken for grace longer.
func verify(h *ca.Holder, state tls.ConnectionState, grace time.Duration) (ca.Identity, error) {
	c := h.Get()
	if c == nil {
		return ca.Identity{}, errors.New("this node is in no cluster and trusts no roots")
	}
	now := time.Now()
	who, err := c.Roots.Verify(state.PeerCertificates, now)
	if err != nil && !early(err, now, who.NotBefore) && !inGrace(err, now, who.NotAfter, grace) {
		return who, err
	}
	if who.Cluster != c.Identity.Cluster {
		return ca.Identity{}, fmt.Errorf("node %s is of cluster %s, this one is %s", who.Node, who.Cluster, c.Identity.Cluster)
	}
	return who, nil
}
