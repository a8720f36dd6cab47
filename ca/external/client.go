package external

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/rpc"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// One server is given this long to sign, and all of them together that long, which
	// is less than a joiner waits.
	oneTime = 4 * time.Second
	allTime = 10 * time.Second
	// atOnce bounds the calls under way; more wait, each for as long as its caller does.
	atOnce = 8
	// A server that failed is left alone for a while, which doubles each time.
	firstRest = time.Second
	maxRest   = 15 * time.Second
)

// Config configures a Client.
type Config struct {
	// Dial makes connections. Nil means the net package's.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Certificate is what is shown to a server that asks who calls. Nil: nothing.
	Certificate func() *tls.Certificate
}

// A Client asks external CAs. It is safe for concurrent use.
type Client struct {
	cfg   Config
	slots chan struct{} // capacity atOnce: a call under way holds one

	signed, failed meter.Counter

	mu sync.Mutex // guards servers; held for memory only
	// servers are those that were asked, by URL.
	servers map[string]*server
	// changed has room for one, so that nobody waits to say it.
	changed chan struct{}
}

// A server is how one was when it was asked last.
type server struct {
	health Health
	// astray: it answered, and did otherwise than it was asked. That it is there says
	// nothing then, and only what it signs does.
	astray   bool
	failures int
	// rest is until when it is left alone.
	rest time.Time
}

// Health is how a server is. Its zero value is one that was not asked.
type Health struct {
	// Err says why it does not sign, in words; empty if it does.
	Err string
	// Answered is when it last did, and Failed when it last did not. Zero: never.
	Answered, Failed time.Time
}

// Failing reports whether it did not do what it was asked last.
func (h Health) Failing() bool { return h.Err != "" }

// New returns a Client.
func New(cfg Config) *Client {
	if cfg.Dial == nil {
		cfg.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	return &Client{cfg: cfg, slots: make(chan struct{}, atOnce), servers: make(map[string]*server), changed: make(chan struct{}, 1)}
}

// Sign has the first of the CAs sign that does, each asked in turn, and gives what it
// signed to take, which judges it: an error of take counts as one of that CA, but for
// ca.Unfit, which ends it. root is the swarm's, DER. The error names each CA and why it did
// not sign.
func (c *Client) Sign(ctx context.Context, cas []*modelv1.ExternalCA, root []byte, o ca.Order, take func(der []byte) error) error {
	within, stop := context.WithTimeout(ctx, allTime)
	defer stop()
	done, err := c.enter(within)
	if err != nil {
		return err
	}
	defer done()
	var why []string
	var unfit error
	for _, at := range c.ready(cas) {
		err := c.try(ctx, within, at, true, func(ctx context.Context) error {
			der, err := c.sign(ctx, at, root, o)
			if err != nil {
				return err
			}
			var u ca.Unfit
			if err = take(der); errors.As(err, &u) {
				unfit = rpc.Errorf(errdefs.ErrFailedPrecondition, "external CA %s: %v", at.GetUrl(), u)
				return nil
			}
			return err
		})
		if unfit != nil {
			return unfit
		}
		if err == nil {
			c.signed.Inc()
			return nil
		}
		c.failed.Inc()
		why = append(why, said(at, err))
		if within.Err() != nil {
			break
		}
	}
	if len(why) == 0 {
		why = c.resting(cas)
	}
	return rpc.Refuse(unsigned(why), "ctl info shows how it is; what runs runs on, and certificates are renewed by themselves when it signs again")
}

// Trial has one CA sign something that nobody needs. That it does not says nothing of
// how it is: what it was asked for may be what is wrong. That it does says that it signs.
func (c *Client) Trial(ctx context.Context, at *modelv1.ExternalCA, root []byte, o ca.Order, take func(der []byte) error) error {
	ctx, stop := context.WithTimeout(ctx, oneTime)
	defer stop()
	done, err := c.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	der, err := c.sign(ctx, at, root, o)
	if err == nil {
		err = take(der)
	}
	if err != nil {
		return unsigned([]string{said(at, err)})
	}
	c.note(at.GetUrl(), true, nil)
	return nil
}

// enter waits until a call may be made, and returns what is to be called after it.
func (c *Client) enter(ctx context.Context) (done func(), err error) {
	select {
	case c.slots <- struct{}{}:
		return func() { <-c.slots }, nil
	case <-ctx.Done():
		return nil, rpc.Errorf(errdefs.ErrUnavailable, "%d requests to the external CA are under way, and none ended in time", atOnce)
	}
}

func said(at *modelv1.ExternalCA, err error) string { return at.GetUrl() + ": " + err.Error() }

func unsigned(why []string) error {
	return rpc.Errorf(errdefs.ErrUnavailable, "the external CA does not sign: %s", strings.Join(why, "; "))
}

// Probe asks a CA whether it is there and has the swarm's root, and notes it. One
// that is to be left alone is. One that did otherwise than it was asked to sign goes on
// being called failing, until it signs.
func (c *Client) Probe(ctx context.Context, at *modelv1.ExternalCA, root []byte) {
	if len(c.ready([]*modelv1.ExternalCA{at})) == 0 {
		return
	}
	_ = c.try(ctx, ctx, at, false, func(ctx context.Context) error { return c.probe(ctx, at, root) })
}

// try makes one call, within a time, and notes how it went. A caller who gave up says
// nothing of the server.
func (c *Client) try(caller, within context.Context, at *modelv1.ExternalCA, signing bool, call func(context.Context) error) error {
	one, stop := context.WithTimeout(within, oneTime)
	defer stop()
	err := call(one)
	if err == nil || caller.Err() == nil {
		c.note(at.GetUrl(), signing, err)
	}
	return err
}

// note keeps how a call to a server went, which was to sign or to say who it is.
func (c *Client) note(url string, signing bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.servers[url]
	if s == nil {
		s = &server{}
		c.servers[url] = s
	}
	was, first := s.health.Err, s.health == (Health{})
	switch {
	case err == nil && s.astray && !signing:
		s.failures, s.rest = 0, time.Time{}
	case err == nil:
		s.health.Err, s.health.Answered, s.astray, s.failures, s.rest = "", time.Now(), false, 0, time.Time{}
	default:
		s.astray = signing && !errors.As(err, new(unreached))
		s.health.Err, s.health.Failed = err.Error(), time.Now()
		s.rest = time.Now().Add(min(firstRest<<min(s.failures, 10), maxRest))
		s.failures++
	}
	if first || (was == "") != (s.health.Err == "") {
		select {
		case c.changed <- struct{}{}:
		default:
		}
	}
}

// ready returns the CAs that are not to be left alone now, in their order.
func (c *Client) ready(cas []*modelv1.ExternalCA) (out []*modelv1.ExternalCA) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for _, at := range cas {
		if s := c.servers[at.GetUrl()]; s == nil || !now.Before(s.rest) {
			out = append(out, at)
		}
	}
	return out
}

// resting says why none of the CAs is asked now.
func (c *Client) resting(cas []*modelv1.ExternalCA) (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, at := range cas {
		if s := c.servers[at.GetUrl()]; s != nil {
			out = append(out, fmt.Sprintf("%s: %s (it is asked again in %v)", at.GetUrl(), s.health.Err, max(time.Until(s.rest), 0).Round(time.Second)))
		}
	}
	return out
}

// Health returns how the CA at a URL is.
func (c *Client) Health(url string) Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.servers[url]; s != nil {
		return s.health
	}
	return Health{}
}

// Changed says that a CA was asked for the first time, began to fail, or ended that. It is for one listener.
func (c *Client) Changed() <-chan struct{} { return c.changed }

// Forget forgets how CAs are at other addresses than those.
func (c *Client) Forget(but []*modelv1.ExternalCA) {
	c.mu.Lock()
	defer c.mu.Unlock()
	keep := make(map[string]*server, len(but))
	for _, at := range but {
		if s := c.servers[at.GetUrl()]; s != nil {
			keep[at.GetUrl()] = s
		}
	}
	c.servers = keep
}

// Meters is what a Client counted.
type Meters struct {
	// Signed is how many certificates came back as they were asked for; Failed how many
	// calls ended otherwise.
	Signed, Failed uint64
}

// Meters returns what was counted.
func (c *Client) Meters() Meters { return Meters{Signed: c.signed.Value(), Failed: c.failed.Value()} }
