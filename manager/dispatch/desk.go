package dispatch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// defaultLease and defaultHeartbeat are the cluster's settings where they are zero (D10).
	defaultLease     = 10 * time.Second
	defaultHeartbeat = 2 * time.Second
)

// errClosed says that the tenure is over.
var errClosed = errors.New("the leader's desk is closed")

// A desk is where the leader hears of all nodes: from its own sessions and,
// through relays, from those of the other managers.
type desk struct {
	cfg Config

	mu       sync.Mutex // guards the fields below; held for memory only
	leases   *leases
	describe map[id.ID]*modelv1.NodeDescription
	slips    []*slip       // oldest first; all but the last are full
	begun    time.Time     // when the last commit was
	notes    []*logv1.Note // for who watches events
	lines    map[*line]struct{}
	closed   bool

	wake chan struct{} // capacity 1: something waits to be committed
}

// newDesk opens the desk over the nodes of the store, each with a full lease (R3).
func newDesk(cfg Config) *desk {
	snap := cfg.Store.Snapshot()
	d := &desk{
		cfg:      cfg,
		leases:   newLeases(defaultLease, true),
		describe: make(map[id.ID]*modelv1.NodeDescription),
		lines:    make(map[*line]struct{}),
		wake:     make(chan struct{}, 1),
	}
	d.set(snap)
	d.adopt(snap)
	return d
}

// set takes over the cluster's settings.
func (d *desk) set(snap *store.Snapshot) {
	spec := snap.Cluster().GetSpec()
	d.leases.full = ticks(orDefault(spec.GetLease(), defaultLease))
	d.leases.guard = !spec.GetMassExpiryGuardOff()
}

func orDefault(nanos int64, d time.Duration) time.Duration {
	if nanos > 0 {
		return time.Duration(nanos)
	}
	return d
}

// adopt makes the leases' nodes those of the store.
func (d *desk) adopt(snap *store.Snapshot) {
	for node := range d.leases.nodes {
		if snap.Node(node) == nil {
			d.leases.forget(node)
		}
	}
	for n := range snap.Nodes() {
		if node, err := id.FromBytes(n.GetId()); err == nil && in(n) {
			d.leases.adopt(node, n.GetStatus())
		}
	}
}

// in reports whether there is a node that may be heard: one that waits to be
// accepted has no certificate, and its silence means nothing.
func in(n *modelv1.Node) bool {
	return n != nil && n.GetMembership() != modelv1.Membership_MEMBERSHIP_PENDING
}

// run lives through the ticks and commits until ctx ends.
func (d *desk) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.tick(ctx) })
	g.Go(func() error { return d.commit(ctx) })
	g.Go(func() error { return d.follow(ctx) })
	g.Go(func() error { return d.keepTime(ctx) })
	err := g.Wait()
	d.close()
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled)) {
		return nil
	}
	return err
}

// follow keeps the leases' nodes those of the store as nodes come and go.
func (d *desk) follow(ctx context.Context) error {
	w := d.cfg.Store.Watch(store.Key{Kind: logv1.Kind_KIND_NODE}, store.Key{Kind: logv1.Kind_KIND_CLUSTER})
	defer w.Close()
	for {
		changes, reset := w.Take()
		snap := d.cfg.Store.Snapshot()
		d.mu.Lock()
		if reset {
			d.set(snap)
			d.adopt(snap)
		}
		for _, c := range changes {
			d.changed(snap, c)
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
		}
	}
}

// changed takes in one change of a node or of the cluster's settings.
func (d *desk) changed(snap *store.Snapshot, c store.Change) {
	if c.Kind == logv1.Kind_KIND_CLUSTER {
		d.set(snap)
		return
	}
	node, err := id.FromBytes(c.Key)
	if err != nil {
		return
	}
	if n := snap.Node(node); in(n) {
		d.leases.adopt(node, n.GetStatus())
	} else {
		d.leases.forget(node)
	}
}

func (d *desk) tick(ctx context.Context) error {
	t := time.NewTicker(leaseTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		d.mu.Lock()
		deferred := d.leases.tick(d.now())
		if deferred > 0 {
			d.notes = append(d.notes, &logv1.Note{Type: "swarm", Action: "losses-deferred",
				Reason:     "most nodes fell silent at once: their tasks are replaced a lease later",
				Attributes: map[string]string{"nodes": strconv.Itoa(deferred)}})
		}
		d.mu.Unlock()
		if deferred > 0 {
			d.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "most nodes fell silent at once; replacement waits one more lease",
				slog.Int("nodes", deferred))
		}
		signal(d.wake)
	}
}

// now is the time that statuses are stamped with; never behind log time.
func (d *desk) now() time.Time { return d.cfg.Store.Now() }

// connect opens a line for manager.
func (d *desk) connect(manager id.ID) (*line, error) {
	l := &line{manager: manager, accounted: make(map[id.ID]*dispatchv1.Accounted), wake: make(chan struct{}, 1)}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, errClosed
	}
	d.lines[l] = struct{}{}
	return l, nil
}

func (d *desk) disconnect(l *line) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.lines, l)
}

func (d *desk) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for l := range d.lines {
		signal(l.wake)
	}
}

// done reports whether the tenure is over.
func (d *desk) done() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
}

// hear takes in one message of a line.
func (d *desk) hear(l *line, req *dispatchv1.RelayRequest) error {
	now := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	if req.GetClock() != 0 {
		l.offset = time.Until(time.Unix(0, req.GetClock()))
	}
	for _, v := range req.GetLiveness() {
		if err := d.liveness(l, v, now); err != nil {
			return err
		}
	}
	if len(req.GetReports()) > 0 {
		d.file(l, req)
	}
	signal(d.wake)
	return nil
}

func (d *desk) liveness(l *line, v *dispatchv1.Liveness, now time.Time) error {
	node, err := id.FromBytes(v.GetNode())
	if err != nil {
		return fmt.Errorf("liveness from manager %s: %w", l.manager, err)
	}
	if d.leases.nodes[node] == nil {
		// A node that enrolled a moment ago: its record is here before its session.
		if n := d.cfg.Store.Snapshot().Node(node); n != nil {
			d.leases.adopt(node, n.GetStatus())
		}
	}
	h := heard{
		node: node, boot: v.GetBoot(), session: v.GetSession(), age: time.Duration(max(0, v.GetAge())),
		ended: v.GetEnded(), farewell: v.GetFarewell(), address: v.GetObservedAddress(), shown: v.GetShown(),
	}
	if v.GetClockAhead() != 0 { // against the clock here, wherever its session is
		h.ahead, h.by = time.Duration(v.GetClockAhead())+l.offset, d.cfg.Self
	}
	if !d.leases.hear(h, now) {
		return nil
	}
	if v.GetDescription() != nil && !proto.Equal(v.GetDescription(), d.cfg.Store.Snapshot().Node(node).GetDescription()) {
		d.describe[node] = v.GetDescription()
	}
	if !v.GetEnded() {
		l.account(node, v.GetSession(), v.GetBeat())
	}
	return nil
}

// signal sets a level: a wake that waits already is enough.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
