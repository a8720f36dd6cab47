package node

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/rpc"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// An order is a change of what this node is, given over the unix socket. The one
// goroutine that lives the node carries orders out, one after the other.
type order struct {
	// do changes what is on the disk. The life, if there is one, has ended.
	do func(context.Context) error
	// before is asked while the life goes on; an error refuses the order.
	before func(context.Context, *life) error
	// locked: it may be given to a manager whose keys are locked, and to a node that
	// is unfit.
	locked bool
	done   chan error // capacity 1
}

// give hands an order over and waits until it is carried out.
func (n *Node) give(ctx context.Context, o order) error {
	o.done = make(chan error, 1)
	select {
	case n.orders <- o:
	case <-ctx.Done():
		return rpc.Errorf(errdefs.ErrUnavailable, "the daemon is busy with another change of its membership")
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return rpc.Errorf(errdefs.ErrUnavailable, `the daemon goes on with it in the background; see "ctl info"`)
	}
}

// live waits for an identity and lives with it, until ctx ends.
func (n *Node) live(ctx context.Context) error {
	var refused error // why this node is not let in that has waited for it
	for ctx.Err() == nil {
		id, err := n.keys.Load()
		switch {
		case errors.Is(err, fs.ErrNotExist):
			if req := n.asked(ctx); req != nil {
				if refused = n.awaitAcceptance(ctx, req); refused != nil {
					n.cfg.Log.LogAttrs(ctx, slog.LevelError, "this node is not let in", slog.Any("err", refused))
				}
				continue
			}
			n.set(localv1.State_STATE_INACTIVE, nil, refused)
			n.await(ctx)
			refused = nil
			continue
		case errors.Is(err, keystore.ErrLocked):
			n.beLocked(ctx)
			continue
		case err != nil:
			n.set(localv1.State_STATE_ERROR, nil, err)
			n.cfg.Log.LogAttrs(ctx, slog.LevelError, "the identity on the disk cannot be used", slog.Any("err", err))
			n.await(ctx)
			continue
		case id.Facts.FIPS && !n.cfg.FIPS:
			n.set(localv1.State_STATE_ERROR, nil, errUnfit())
			n.cfg.Log.LogAttrs(ctx, slog.LevelError, "the node does not start", slog.Any("err", errUnfit()), slog.String("hint", rpc.FIPSHint))
			n.await(ctx)
			continue
		}
		l, err := n.newLife(ctx, id)
		if err != nil {
			n.set(localv1.State_STATE_ERROR, nil, err)
			n.cfg.Log.LogAttrs(ctx, slog.LevelError, "the node cannot start", slog.Any("err", err))
			n.await(ctx)
			continue
		}
		n.set(localv1.State_STATE_PENDING, l, nil)
		n.spend(ctx, l)
	}
	return nil
}

// await carries out one order of a node that has no life.
func (n *Node) await(ctx context.Context) {
	select {
	case <-ctx.Done():
	case o := <-n.orders:
		o.done <- n.obey(ctx, o)
	}
}

// obey carries out an order given to a node that has no life.
func (n *Node) obey(ctx context.Context, o order) error {
	switch {
	case o.locked:
	case n.keys.Locked():
		return errLocked()
	case n.unfit():
		return errUnfit()
	}
	if o.before != nil {
		if err := o.before(ctx, nil); err != nil {
			return err
		}
	}
	return o.do(ctx)
}

// spend lives one life until ctx or an order ends it.
func (n *Node) spend(ctx context.Context, l *life) {
	living, end := context.WithCancel(ctx)
	defer end()
	over := make(chan error, 1)
	go func() { over <- l.run(living) }() // awaited below, on every way out
	for {
		select {
		case err := <-over:
			n.ended(ctx, err)
			return
		case o := <-n.orders:
			if o.before != nil {
				if err := o.before(ctx, l); err != nil {
					o.done <- err
					continue
				}
			}
			end()
			n.ended(ctx, <-over)
			n.set(localv1.State_STATE_PENDING, nil, nil) // nobody takes the life that is over for the next
			o.done <- o.do(ctx)
			return
		}
	}
}

// rest is how long a node waits after its life failed before it tries again.
const rest = 2 * time.Second

// ended notes why a life is over. One that failed by itself is tried again.
func (n *Node) ended(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	n.set(localv1.State_STATE_ERROR, nil, err)
	n.cfg.Log.LogAttrs(ctx, slog.LevelError, "the node stopped; starting it again", slog.Any("err", err))
	select {
	case <-ctx.Done():
	case <-time.After(rest):
	}
}
