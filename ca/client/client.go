// Package client is a node's side of the certificate authority: it joins with a
// token and renews before the end.
//
// It trusts no address and no first sight: a joiner takes a handshake only if its
// chain holds the root that the token pins and the leaf is a manager's, and sends
// the token on that very connection (R16). It keeps nothing itself; the key store
// and the credential holder are given.
//
// Invariant: a certificate is used only after it was checked against the key this
// node holds and both were saved.
package client

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

const (
	dialTimeout   = 5 * time.Second
	enrollTimeout = 15 * time.Second
)

// What may be wrong with a manager that a joiner dials. Callers tell them apart
// to choose their words.
var (
	// ErrUnreachable: nothing answers there, or it does not speak TLS 1.3.
	ErrUnreachable = errors.New("it cannot be reached")
	// ErrOtherCluster: what answers does not hold the root that the token pins.
	ErrOtherCluster = errors.New("it does not belong to the swarm of this token")
	// ErrNotManager: what answers belongs to the swarm but is no manager.
	ErrNotManager = errors.New("it is not a manager of the swarm")
)

// A Waiting is the error of a joiner that an operator has to accept first. Whoever
// asks again with the same key learns whether he has.
type Waiting struct {
	// Node is the id that the joiner will have.
	Node id.ID
	// Key is the digest of the joiner's public key, as the operator is shown it.
	Key ca.Digest
	// Until is when the managers forget it, by their clocks; zero: never.
	Until time.Time
}

// Error says what is waited for.
func (w *Waiting) Error() string {
	return fmt.Sprintf("node %s waits for an operator to accept it; its key is %s", w.Node, w.Key.Fingerprint())
}

// A Join is what a machine joins with.
type Join struct {
	Token ca.Token
	// Remotes are host:port of managers, tried in this order.
	Remotes []string
	// Key is the node's new key. It must be kept on disk already: whoever asks
	// again with the same key gets the same certificate (R17).
	Key          *ecdsa.PrivateKey
	Availability modelv1.Availability
	Hostname     string
	// FIPS: this process is in FIPS 140-3 mode. A cluster that asks for it lets no
	// other in.
	FIPS bool
	// Dial makes connections. Nil means the net package's.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// A Result is what a node has after it joined. It is not saved yet.
type Result struct {
	Credential *ca.Credential
	Managers   *cav1.ManagerList
	// Remote is the address that answered.
	Remote string
	// LocalAddress is the host this node was seen to dial from.
	LocalAddress string
	// FIPS: the cluster asks for FIPS 140-3 mode.
	FIPS bool
}

// Enroll joins by the first manager that answers, and returns what it gave. An
// error names each manager and what was wrong with it. One that refuses the token
// ends the search.
func Enroll(ctx context.Context, j Join) (*Result, error) {
	if len(j.Remotes) == 0 {
		return nil, fmt.Errorf("join: no manager's address was given: %w", errdefs.ErrInvalidArgument)
	}
	if j.Token.FIPS && !j.FIPS { // as managers would say, without a word to them
		return nil, rpc.RefuseFIPS("join")
	}
	if j.Dial == nil {
		var d net.Dialer
		j.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	var errs []error
	for _, remote := range j.Remotes {
		r, err := j.at(ctx, remote)
		if err == nil {
			return r, nil
		}
		err = fmt.Errorf("manager %s: %w", remote, err)
		if final(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("join: %w", err)
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("join: %w", errors.Join(errs...))
}

// final reports whether other managers would say the same.
func final(err error) bool {
	if _, waits := errors.AsType[*Waiting](err); waits {
		return true
	}
	return errdefs.IsPermissionDenied(err) || errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err)
}

func (j Join) at(ctx context.Context, remote string) (*Result, error) {
	conn, pin, err := j.handshake(ctx, remote)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	cc, err := over(conn)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cc.Close() }()

	csr, err := ca.NewCSR(j.Key)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithTimeout(ctx, enrollTimeout)
	defer stop()
	resp, err := cav1.NewAuthorityClient(cc).Enroll(ctx, &cav1.EnrollRequest{
		Token: j.Token.Reveal(), Csr: csr, Availability: j.Availability, Hostname: j.Hostname, Clock: time.Now().UnixNano(), Fips: j.FIPS,
	})
	if err != nil {
		return nil, err
	}
	if p := resp.GetPending(); p != nil && resp.GetIssued() == nil {
		return nil, j.waits(p, csr)
	}
	cred, err := Accept(resp.GetIssued(), j.Key)
	if err != nil {
		return nil, err
	}
	if cred.Identity.Cluster != pin.who.Cluster {
		return nil, fmt.Errorf("it gave a certificate of cluster %s but is of %s: %w", cred.Identity.Cluster, pin.who.Cluster, errdefs.ErrDataLoss)
	}
	if err := pin.vouches(cred); err != nil {
		return nil, fmt.Errorf("the certificate it gave does not lead to the root that the token pins: %w: %w", err, errdefs.ErrDataLoss)
	}
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		host = ""
	}
	return &Result{Credential: cred, Managers: resp.GetIssued().GetManagers(), Remote: remote, LocalAddress: host, FIPS: resp.GetIssued().GetFips()}, nil
}

// waits is the error of a joiner that waits. The key it names is the joiner's own,
// whatever the manager said.
func (j Join) waits(p *cav1.Pending, csr []byte) error {
	node, err := id.FromBytes(p.GetNode())
	if err != nil {
		return fmt.Errorf("the authority's answer: %w", err)
	}
	key, err := ca.ParseCSR(csr)
	if err != nil {
		return err
	}
	return &Waiting{Node: node, Key: key.SHA256, Until: time.Unix(0, p.GetExpiresAt())}
}

// pinned judges a handshake by the token's digest.
type pinned struct {
	digest ca.Digest
	// anyTime takes a certificate that is out of its time, to ask who has it for
	// the clock.
	anyTime bool

	mu  sync.Mutex // guards the fields below; held for memory only
	who ca.Identity
	err error
	// root is the one that the token pins, and shown what came with it.
	root  *ca.Bundle
	shown []*x509.Certificate
}

// vouches returns nil if the pinned root stands behind a certificate that came over
// the connection: it is among the roots given with it, or was before a rotation,
// and leads to the one that signed it.
func (p *pinned) vouches(cred *ca.Credential) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, held := cred.Roots.Find(p.digest); held {
		return nil
	}
	_, err := p.root.Verify(append([]*x509.Certificate{cred.Leaf}, p.shown...), cred.IssuedAt)
	if errors.Is(err, ca.ErrClock) {
		return nil // Accept has judged the time
	}
	return err
}

func (p *pinned) verify(state tls.ConnectionState) error {
	root, who, err := p.judge(state.PeerCertificates, time.Now())
	if p.anyTime && errors.Is(err, ca.ErrClock) {
		err = nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.who, p.err, p.root, p.shown = who, err, root, state.PeerCertificates
	return err
}

// judge accepts a chain only if one of its certificates is the pinned root, the
// leaf is signed up to that root, and the leaf is a manager's (R16).
func (p *pinned) judge(chain []*x509.Certificate, now time.Time) (root *ca.Bundle, who ca.Identity, err error) {
	for _, c := range chain {
		if ca.RootDigest(c.Raw) != p.digest {
			continue
		}
		b, err := ca.ParseBundle([][]byte{c.Raw})
		if err != nil {
			return nil, ca.Identity{}, fmt.Errorf("%w: %w", ErrOtherCluster, err)
		}
		root = b
	}
	if root == nil {
		if len(chain) > 0 {
			if who, err := ca.FromCert(chain[0]); err == nil && who.Role != modelv1.Role_ROLE_MANAGER {
				return nil, ca.Identity{}, fmt.Errorf("node %s answers: %w", who.Node, ErrNotManager)
			}
		}
		return nil, ca.Identity{}, ErrOtherCluster
	}
	who, err = root.Verify(chain, now)
	untimely := errors.Is(err, ca.ErrClock)
	switch {
	case err != nil && !untimely:
		return nil, ca.Identity{}, fmt.Errorf("%w: %w", ErrOtherCluster, err)
	case untimely && !now.Before(who.NotBefore):
		return root, who, err
	case who.Role != modelv1.Role_ROLE_MANAGER:
		return nil, ca.Identity{}, fmt.Errorf("node %s answers: %w", who.Node, ErrNotManager)
	}
	return root, who, nil
}

// handshake dials remote and returns a connection whose peer was judged. If its
// certificate has ended by the clock here it is asked what its own clock says.
func (j Join) handshake(ctx context.Context, remote string) (*tls.Conn, *pinned, error) {
	conn, p, err := j.greet(ctx, remote, &pinned{digest: j.Token.Digest})
	if errors.Is(err, ca.ErrClock) {
		err = j.blameClock(ctx, remote, err)
	}
	return conn, p, err
}

// blameClock adds to why a manager's certificate is out of its time how far the
// clock here is off that manager's, if the manager tells.
func (j Join) blameClock(ctx context.Context, remote string, why error) error {
	why = rpc.Refuse(why, rpc.ClockHint)
	conn, p, err := j.greet(ctx, remote, &pinned{digest: j.Token.Digest, anyTime: true})
	if err != nil {
		return why
	}
	defer func() { _ = conn.Close() }() // nothing was sent but a question
	cc, err := over(conn)
	if err != nil {
		return why
	}
	defer func() { _ = cc.Close() }()
	ahead, err := AskClock(ctx, cc)
	if words := rpc.ClockWords(ahead, p.who.Node); err == nil && words != "" {
		return rpc.Refuse(fmt.Errorf("%s: %w", words, why), rpc.ClockHint)
	}
	return why
}

// AskClock asks a manager what its clock says, and returns how far the one here is
// ahead of it, to within the time that the answer took.
func AskClock(ctx context.Context, cc grpc.ClientConnInterface) (ahead time.Duration, err error) {
	ctx, stop := context.WithTimeout(ctx, dialTimeout)
	defer stop()
	resp, err := raftv1.NewRaftClient(cc).Ping(ctx, &raftv1.PingRequest{})
	switch {
	case err != nil:
		return 0, err
	case resp.GetClock() == 0:
		return 0, rpc.Errorf(errdefs.ErrNotImplemented, "the manager does not tell its clock")
	}
	return time.Since(time.Unix(0, resp.GetClock())), nil
}

// greet dials remote and has p judge who answers.
func (j Join) greet(ctx context.Context, remote string, p *pinned) (*tls.Conn, *pinned, error) {
	ctx, stop := context.WithTimeout(ctx, dialTimeout)
	defer stop()
	raw, err := j.Dial(ctx, remote)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	conn := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		// There is no root to verify with but the one in the chain that has the
		// token's digest: judge does the whole work.
		InsecureSkipVerify:     true,
		SessionTicketsDisabled: true,
		VerifyConnection:       p.verify,
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		if p.err != nil {
			return nil, nil, p.err
		}
		return nil, nil, fmt.Errorf("%w: TLS: %w", ErrUnreachable, err)
	}
	return conn, p, nil
}

// over returns a gRPC connection that uses conn and never any other.
func over(conn net.Conn) (*grpc.ClientConn, error) {
	once := make(chan net.Conn, 1) // holds the one connection there is
	once <- conn
	return rpc.DialWith(conn.RemoteAddr().String(), insecure.NewCredentials(),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-once:
				return c, nil
			default:
				return nil, errors.New("the connection that was verified broke")
			}
		}))
}

// Accept checks what an authority gave: the certificate must be for key and
// signed by one of the roots given with it, and say what the answer says.
func Accept(issued *cav1.Issued, key *ecdsa.PrivateKey) (*ca.Credential, error) {
	roots, err := ca.ParseBundle(issued.GetRoots())
	if err != nil {
		return nil, fmt.Errorf("the authority's answer: %w", err)
	}
	cred, err := ca.NewCredential(issued.GetChain(), key, roots, time.Unix(0, issued.GetIssuedAt()))
	if err != nil {
		return nil, fmt.Errorf("the authority's answer: %w", err)
	}
	cluster, err1 := id.FromBytes(issued.GetCluster())
	node, err2 := id.FromBytes(issued.GetNode())
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the authority's answer: %w", err)
	}
	if who := cred.Identity; who.Cluster != cluster || who.Node != node || who.Role != issued.GetRole() {
		return nil, fmt.Errorf("the authority's answer: the certificate is of %v %s of cluster %s, the answer of %v %s of %s",
			who.Role, who.Node, who.Cluster, issued.GetRole(), node, cluster)
	}
	// One that is not valid yet is taken: managers let it in by its record.
	if now := time.Now(); now.After(cred.Identity.NotAfter) {
		return nil, rpc.Refuse(fmt.Errorf("the authority's answer: %w", ca.InTime(cred.Leaf, now)), rpc.ClockHint)
	}
	return cred, nil
}
