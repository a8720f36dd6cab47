// Package session keeps a node in touch with the managers.
//
// It owns the stream: to which manager, when to leave it for another, what is
// sent on it and what is sent again. It knows nothing of containers: what
// arrives is given to a [Worker], what is to be reported comes by Report.
//
// Invariants:
//
//   - there is one stream, or two while a manager's word is doubted or the node
//     has a new certificate: the old one is kept until a better one is confirmed
//     by the leader (R2), and from then on nothing that comes on it is obeyed;
//   - every session has a counter greater than all before it;
//   - a state is sent again, first thing on each new stream, until a manager
//     says that it is committed (R5); only the newest of a task is kept.
package session

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// What a manager is taken to want before it has said so.
const (
	defaultHeartbeat = 2 * time.Second
	defaultLease     = 10 * time.Second
)

// A Worker does what the managers say and remembers what must be remembered.
type Worker interface {
	// Position returns the highest (history, index) obeyed.
	Position() (history id.ID, index uint64)
	// Obey acts on a message, or says why it must not be obeyed.
	Obey(ctx context.Context, a *dispatchv1.Assignments, lease time.Duration) error
	// NextSession draws a counter greater than any before it.
	NextSession() (uint64, error)
	// Managers returns the newest list of managers.
	Managers() *cav1.ManagerList
	// KeepManagers takes a list unless it is older than the one held.
	KeepManagers(list *cav1.ManagerList) (bool, error)
	// Acknowledge takes note that a task's status is committed.
	Acknowledge(ctx context.Context, task id.ID, status *modelv1.TaskStatus)
}

// Config configures a Client.
type Config struct {
	// Worker obeys. Required.
	Worker Worker
	// Dial returns a connection to a manager, which the client closes. It
	// need not wait until the connection stands. Required.
	Dial func(ctx context.Context, manager *cav1.Manager) (*grpc.ClientConn, error)
	// Named are managers that the operator named, because those of the worker's
	// list may be gone: they are dialled besides, until a newer list is taken.
	Named []*cav1.Manager
	// Hello is said first on every stream; the client fills in the history.
	// Required.
	Hello *rpcv1.Hello
	// OnWish is given what the node's record wants of it. It must not block.
	OnWish func(*dispatchv1.Wish)
	// OnRevoked is told that a manager says this node is no longer one of the
	// cluster, or refuses its certificate, in the manager's words. It must not
	// block. The client goes on asking others: the next wish takes it back.
	OnRevoked func(words string)
	// OnManagers is given each newer list of managers. It must not block.
	OnManagers func(*cav1.ManagerList)
	// Log receives the client's records. Required.
	Log *slog.Logger
}

// A Client is the node's side of its session. Its methods may be called from
// any goroutine.
type Client struct {
	cfg    Config
	outbox *outbox
	events chan event
	// renewed asks Run's loop to look whether its stream is outdated; one pending
	// wake is enough.
	renewed chan struct{}

	mu          sync.Mutex // guards the fields below; held for memory only
	main        *link      // the stream that counts; nil if there is none
	description *modelv1.NodeDescription
	described   uint64 // counts the descriptions
	renewals    uint64 // counts the certificates that followed the first
	alone       Alone  // of the time without main
	parting     bool   // Farewell was said: no other session is opened
	refused     *cav1.ManagerList
	named       []*cav1.Manager
}

// New returns a client; Run runs it.
func New(cfg Config) (*Client, error) {
	if cfg.Worker == nil || cfg.Dial == nil || cfg.Hello == nil || cfg.Log == nil {
		return nil, errors.New("session: worker, dial, hello and log are required")
	}
	if cfg.OnWish == nil {
		cfg.OnWish = func(*dispatchv1.Wish) {}
	}
	if cfg.OnRevoked == nil {
		cfg.OnRevoked = func(string) {}
	}
	if cfg.OnManagers == nil {
		cfg.OnManagers = func(*cav1.ManagerList) {}
	}
	return &Client{
		cfg: cfg, outbox: newOutbox(), events: make(chan event), renewed: make(chan struct{}, 1), named: cfg.Named,
	}, nil
}

// Report sends a task's newest state to the managers, now and again until one
// says that it is committed. It never blocks.
func (c *Client) Report(task id.ID, status *modelv1.TaskStatus) { c.outbox.put(task, status) }

// Describe sends what the node is: with each new session, and now if it is not
// what was sent last. d must not be changed afterwards.
func (c *Client) Describe(d *modelv1.NodeDescription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if proto.Equal(c.description, d) {
		return
	}
	c.description = d
	c.described++
	if c.main != nil {
		poke(c.main.wake)
	}
}

// Renewed says that connections made from now on show another certificate than
// those before. A stream opened before is replaced by another with the same
// manager, and goes on until the leader counts that one. It never blocks.
func (c *Client) Renewed() {
	c.mu.Lock()
	c.renewals++
	c.mu.Unlock()
	poke(c.renewed)
}

// certificate returns the number of the present certificate.
func (c *Client) certificate() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewals
}

// description returns the newest description and its number.
func (c *Client) newest() (*modelv1.NodeDescription, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.description, c.described
}

// ErrNoSession says that no manager was connected when a farewell was to be
// said; whoever stops the agent branches on it, for there is nothing to wait for.
var ErrNoSession = errors.New("no session with a manager is open")

// Farewell tells the manager why this node's session ends, with every state
// not yet sent, and returns when the manager has closed the stream or ctx
// ends. No other session is opened after it, but after ErrNoSession, which
// nobody has heard it with.
func (c *Client) Farewell(ctx context.Context, kind modelv1.Farewell) error {
	c.mu.Lock()
	main, was := c.main, c.parting
	c.parting = was || main != nil
	c.mu.Unlock()
	if main == nil {
		return ErrNoSession
	}
	select {
	case main.farewell <- kind:
	case <-main.done:
		c.mu.Lock()
		c.parting = was
		c.mu.Unlock()
		return ErrNoSession
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-main.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status is how the session stands.
type Status struct {
	// Manager is the one connected to; nil if none is.
	Manager *cav1.Manager
	// Confirmed is true if the leader has accounted for this session's beats
	// and none waits for longer than a third of the lease.
	Confirmed bool
	// Waiting is how many states wait to be committed.
	Waiting int
	// Alone is why there is no manager; zero while there is one, and until every
	// manager has been tried a few times.
	Alone Alone
}

// Alone is a time without a session.
type Alone struct {
	// Since is when the last session ended, or when the client began.
	Since time.Time
	// Err is why the newest try failed.
	Err error
}

// Status returns how the session stands now.
func (c *Client) Status() Status {
	s := Status{Waiting: c.outbox.waiting()}
	c.mu.Lock()
	main := c.main
	if c.alone.Err != nil {
		s.Alone = c.alone
	}
	c.mu.Unlock()
	if main != nil {
		s.Manager = main.manager
		s.Confirmed = main.pulse.confirmed(time.Now())
	}
	return s
}

// setMain makes l, which may be nil, the stream that counts.
func (c *Client) setMain(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.main, c.alone = l, Alone{}
	if l == nil {
		c.alone.Since = time.Now()
		return
	}
	poke(l.wake) // a description may have come since it was opened
}

// setAlone takes note of why there is still no stream that counts.
func (c *Client) setAlone(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alone.Err = err
}

// candidates are the managers that may be dialled.
func (c *Client) candidates() []*cav1.Manager {
	c.mu.Lock()
	all := slices.Clone(c.named)
	c.mu.Unlock()
	for _, m := range c.cfg.Worker.Managers().GetManagers() {
		if !slices.ContainsFunc(all, func(o *cav1.Manager) bool { return same(m, o) }) {
			all = append(all, m)
		}
	}
	return all
}

func (c *Client) isParting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.parting
}

// keepManagers takes a list, and once more after the history has changed: it
// may have come before the proof of its history.
func (c *Client) keepManagers(ctx context.Context, list *cav1.ManagerList) error {
	if list == nil {
		c.mu.Lock()
		list, c.refused = c.refused, nil
		c.mu.Unlock()
		if list == nil {
			return nil
		}
	}
	taken, err := c.cfg.Worker.KeepManagers(list)
	if err != nil {
		return err
	}
	if taken {
		c.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "a newer list of managers",
			slog.Uint64("index", list.GetIndex()), slog.Int("managers", len(list.GetManagers())))
		c.mu.Lock()
		c.named = nil
		c.mu.Unlock()
		c.cfg.OnManagers(list)
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = list
	return nil
}
