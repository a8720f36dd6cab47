package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// greetTime bounds the first answer of a manager that is reached over the network.
const greetTime = 2 * time.Second

// A Remote is how managers are reached over the network, and by whom.
type Remote struct {
	// Who is shown to them. Nil: nobody, and only sockets are asked.
	Who *wallet.Context
	// Name is what the context is called here. May be empty.
	Name string
	// Grows says that managers of the newest list are tried, too, besides the hosts
	// that were named.
	Grows bool
	// Keep is told when something was learnt of the managers. May be nil.
	Keep func(*wallet.Context)
	// Dial makes connections. Nil means the net package's.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Through makes r the way to the hosts that have an address, and returns c.
func (c *Conn) Through(r Remote) *Conn {
	if r.Dial == nil {
		var d net.Dialer
		r.Dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	c.remote = r
	return c
}

// Context is the one that says who one is to managers, and what it is called here:
// nil if there is none, and "" if it is not kept.
func (c *Conn) Context() (who *wallet.Context, name string) { return c.remote.Who, c.remote.Name }

// Become has who be the caller from the next call on. What is open ends.
func (c *Conn) Become(who *wallet.Context) {
	c.remote.Who = who
	c.Close()
}

// Managers returns the hosts that a context names, the one that answered last
// first.
func Managers(who *wallet.Context) []Host {
	var out []Host
	for _, m := range who.Managers.GetManagers() {
		h := Host{Address: m.GetAddress(), Peer: peerOf(m, who.ListedAt)}
		if h.Address == who.Last {
			out = append([]Host{h}, out...)
			continue
		}
		out = append(out, h)
	}
	return out
}

// peerOf is whom one means to reach at a manager's address (R15).
func peerOf(m *cav1.Manager, listedAt time.Time) rpc.Peer {
	p := rpc.Peer{ListedAt: listedAt}
	if node, err := id.FromBytes(m.GetNode()); err == nil {
		p.Node = node
	}
	for _, k := range m.GetKeys() {
		if d, err := ca.DigestFromBytes(k); err == nil {
			p.Keys = append(p.Keys, d)
		}
	}
	return p
}

// reached is a host that answers.
type reached struct {
	at int
	cc *grpc.ClientConn
	// contact is false if it is a manager that does not hear the quorum.
	contact bool
}

// next moves on to the next host that answers, beginning behind the present one.
// One that does not hear the quorum is taken only if no other answers.
func (c *Conn) next(ctx context.Context) error {
	var errs []error
	var spare *reached
	for i, named := 0, len(c.hosts); i < len(c.hosts); i++ {
		at := i // of those that were learnt on the way
		if i < named {
			at = (c.at + 1 + i) % named
		}
		if c.bound && !c.sameCaller(at) {
			continue
		}
		r, err := c.reach(ctx, at)
		switch {
		case err != nil && final(err):
			spare.close()
			return err
		case err != nil:
			errs = append(errs, err)
		case r.contact:
			spare.close()
			return c.take(r)
		case spare == nil:
			spare = r
		default:
			r.close()
		}
	}
	if spare != nil {
		return c.take(spare)
	}
	return c.nobody(errs)
}

func (r *reached) close() {
	if r != nil {
		_ = r.cc.Close() // nothing is in flight on it
	}
}

// take makes r the host in use.
func (c *Conn) take(r *reached) error {
	c.Close()
	c.cc, c.at, c.contact = r.cc, r.at, r.contact
	return nil
}

// sameCaller reports whether one is the same to a host as to the present one: a
// request is known again only by who asked before (R10).
func (c *Conn) sameCaller(at int) bool {
	return c.at < 0 || (c.hosts[at].Address == "") == (c.hosts[c.at].Address == "")
}

// final reports whether every other manager would say the same.
func final(err error) bool {
	var e *say.Error
	return errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) || errors.As(err, &e) && e.Code == say.Misused
}

// reach connects to a host and finds out whether somebody answers there.
func (c *Conn) reach(ctx context.Context, at int) (*reached, error) {
	h := c.hosts[at]
	if h.Address != "" {
		return c.greet(ctx, at)
	}
	if err := h.knock(ctx); err != nil {
		return nil, err
	}
	cc, err := rpc.DialUnix(h.Path)
	return &reached{at: at, cc: cc, contact: true}, err
}

// knock reports whether somebody listens at a socket.
func (h Host) knock(ctx context.Context) error {
	d := net.Dialer{Timeout: knockTime}
	k, err := d.DialContext(ctx, "unix", h.Path)
	if err != nil {
		return unreachable(h.Path, err)
	}
	return k.Close()
}

// greet asks a manager for the list of managers: whether it answers, takes one
// for whom one is, and hears the quorum, comes with it.
func (c *Conn) greet(ctx context.Context, at int) (*reached, error) {
	h, who := c.hosts[at], c.remote.Who
	if who == nil {
		return nil, say.Hinted(say.Misuse("host %s: managers answer only to somebody, and there is no context", h),
			`make one of what "ctl user create" wrote: ctl context create NAME --from FILE; or name one with --context`)
	}
	ctx, stop := context.WithTimeout(ctx, greetTime)
	defer stop()
	a := &attempt{host: h, who: who}
	cc, err := rpc.Dial(h.Address, a.tls(), grpc.WithContextDialer(a.dialer(c.remote.Dial)), rpc.Probing())
	if err != nil {
		return nil, err
	}
	var header metadata.MD
	resp, err := controlv1.NewControlClient(cc).ListManagers(rpc.Stale(ctx), &controlv1.ListManagersRequest{}, grpc.Header(&header))
	if err != nil {
		_ = cc.Close() // nothing is in flight on it
		return nil, a.words(err)
	}
	f, _ := rpc.FreshnessOf(header)
	c.learn(resp, h.Address, f.InContact)
	return &reached{at: at, cc: cc, contact: f.InContact}, nil
}

// learn takes in what a manager said of the managers.
func (c *Conn) learn(resp *controlv1.ListManagersResponse, address string, certain bool) {
	next, changed := c.remote.Who.Learn(resp, address, certain, time.Now())
	c.remote.Who = next
	if ders := resp.GetRoots(); certain && len(ders) > 1 && !c.warned && !next.Credential.SignedBy(ca.RootDigest(ders[0])) {
		c.warned = true
		c.streams.Warn("the swarm's root is being rotated, and your certificate is of the former one: renew it with ctl user renew")
	}
	if changed && c.remote.Keep != nil {
		c.remote.Keep(next)
	}
	if !c.remote.Grows {
		return
	}
	for _, h := range Managers(next) {
		if i := c.find(h.Address); i >= 0 {
			c.hosts[i].Peer = h.Peer
		} else {
			c.hosts = append(c.hosts, h)
		}
	}
}

func (c *Conn) find(address string) int {
	for i, h := range c.hosts {
		if h.Address == address {
			return i
		}
	}
	return -1
}

// attempt is one try to reach a manager; gRPC's own words for what went wrong are
// for programmers.
type attempt struct {
	host Host
	who  *wallet.Context

	mu  sync.Mutex // guards the field below; held for memory only
	err error      // of the dial, or of judging who answers
}

func (a *attempt) note(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
	return err
}

func (a *attempt) tls() *tls.Config {
	conf := rpc.UserTLS(a.who.Credential, a.host.Peer)
	judge := conf.VerifyConnection
	conf.VerifyConnection = func(state tls.ConnectionState) error { return a.note(judge(state)) }
	return conf
}

func (a *attempt) dialer(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := dial(ctx, address)
		return conn, a.note(err)
	}
}

// words says why the manager was not reached.
func (a *attempt) words(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	cause, dns := a.err, (*net.DNSError)(nil)
	switch {
	case errors.Is(cause, syscall.ECONNREFUSED):
		return a.deaf("nobody listens there", cause)
	case errors.As(cause, &dns):
		return a.deaf("the name is not known", cause)
	case errors.Is(err, context.DeadlineExceeded):
		return a.deaf(fmt.Sprintf("no answer within %v", greetTime), err)
	case cause != nil:
		return a.deaf(cause.Error(), cause)
	case strings.Contains(err.Error(), "remote error: tls:"):
		return a.refused(err)
	case rpc.RefusalOf(err) == nil && errdefs.IsUnavailable(err):
		return a.deaf("the connection broke", err)
	}
	return err
}

// refused says what a manager cannot: it ends the handshake of one whose
// certificate it does not take without a word.
func (a *attempt) refused(err error) error {
	who := a.who.Credential.Identity
	if time.Now().After(who.NotAfter) {
		return say.Hinted(rpc.Errorf(errdefs.ErrUnauthenticated, "certificate of user %s expired at %s", who.Name, who.NotAfter.UTC().Format(time.RFC3339)),
			fmt.Sprintf("have an admin make another: ctl user renew %s -o FILE", who.Name))
	}
	return a.deaf(fmt.Sprintf("it does not take the certificate of user %s", who.Name), err)
}

func (a *attempt) deaf(why string, err error) error {
	return &deaf{path: a.host.String(), why: why, err: err}
}

// nobody is the error of no host having answered: each with its reason.
func (c *Conn) nobody(errs []error) error {
	if c.remote.Who == nil {
		return say.Missing(hintFor(errs), "%s", errors.Join(errs...).Error())
	}
	var why []string
	for _, err := range errs {
		if d, ok := errors.AsType[*deaf](err); ok {
			why = append(why, d.path+": "+d.why)
			continue
		}
		why = append(why, err.Error())
	}
	return say.Missing("name another manager with --host tcp://ADDRESS:2377, or run ctl on a manager's own host",
		"no manager of the swarm answers: %s", strings.Join(why, "; "))
}
