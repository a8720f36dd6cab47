package consensus

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"go.etcd.io/raft/v3/raftpb"
)

// Propose puts a transaction (an encoded logv1.Transaction) into the log and
// returns the index of its entry once it is applied here. The error is the
// Machine's own for this transaction, or one of this package's; ErrUnknown if
// ctx ends first.
func (r *Runner) Propose(ctx context.Context, tx []byte) (uint64, error) {
	if err := r.writable(); err != nil {
		return 0, err
	}
	p := NewProposal(tx)
	if err := r.inbox.propose(ctx, p); err != nil {
		return 0, fmt.Errorf("propose: %w before it was taken in: %w", err, ErrRefused)
	}
	return r.await(ctx, p)
}

func (r *Runner) await(ctx context.Context, p *Proposal) (uint64, error) {
	select {
	case res := <-p.done:
		return res.Index, res.Err
	case <-ctx.Done():
		return 0, fmt.Errorf("propose: %w: %w", ctx.Err(), ErrUnknown)
	case <-r.stop:
	}
	select {
	case res := <-p.done:
		return res.Index, res.Err
	default:
		return 0, fmt.Errorf("propose: this manager stopped: %w", ErrUnknown)
	}
}

// ReadIndex returns an index that a quorum confirmed to be no older than this
// call, after this member has applied it: what the Machine answers from then on
// is linearizable.
func (r *Runner) ReadIndex(ctx context.Context) (uint64, error) {
	if lost := r.lost.Load(); lost != nil {
		return 0, *lost
	}
	q := NewRead()
	r.inbox.put(func(w *work) { w.reads = append(w.reads, q) })
	select {
	case res := <-q.done:
		if res.Err != nil {
			return 0, res.Err
		}
		return res.Index, r.WaitApplied(ctx, res.Index)
	case <-ctx.Done():
		r.inbox.put(func(w *work) { w.forget = append(w.forget, q) })
		return 0, fmt.Errorf("read: %w: %w", ctx.Err(), ErrNoQuorum)
	case <-r.stop:
		return 0, fmt.Errorf("read: this manager stopped: %w", ErrNoQuorum)
	}
}

// WaitApplied returns when this member has applied index.
func (r *Runner) WaitApplied(ctx context.Context, index uint64) error {
	if err := r.applied.wait(ctx, index); err != nil {
		return fmt.Errorf("wait for entry %d, entry %d is applied: %w", index, r.applied.get(), err)
	}
	return nil
}

// Status returns what this member knows of its group now.
func (r *Runner) Status() Status {
	s, _ := r.board.get()
	s.Applied = r.applied.get()
	return s
}

// Changed returns a channel that is closed at the next change of term, leader,
// tenure, membership, contact or reach. Take it before Status.
func (r *Runner) Changed() <-chan struct{} {
	_, c := r.board.get()
	return c
}

// retryChange is how long a change waits for the one before it.
const retryChange = 50 * time.Millisecond

// ChangeMembership changes the group by one member, in one entry with tx: both
// happen or neither. Another change under way is waited for. It returns when
// the change is applied here.
func (r *Runner) ChangeMembership(ctx context.Context, ch Change, tx []byte) error {
	if err := r.writable(); err != nil {
		return err
	}
	for {
		err := r.changeOnce(ctx, ch, tx)
		if !errors.Is(err, ErrChangePending) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s %016x: %w: %w", ch.Kind, ch.RaftID, ctx.Err(), err)
		case <-time.After(retryChange):
		}
	}
}

func (r *Runner) changeOnce(ctx context.Context, ch Change, tx []byte) error {
	p, nonce := NewProposal(tx), make([]byte, 16)
	_, _ = rand.Read(nonce) // never fails: the runtime ends the process when there is no randomness
	clock := r.cfg.Clock().UnixNano()
	r.inbox.put(func(w *work) {
		w.calls = append(w.calls, func(c *Core) {
			if lost := r.lost.Load(); lost != nil {
				p.end(Result{Err: *lost})
				return
			}
			c.ProposeChange(ch, nonce, p, clock)
		})
	})
	if ch.Kind == AddLearner && ch.Address != "" {
		r.SetPeer(ch.RaftID, ch.Address)
	}
	if _, err := r.await(ctx, p); err != nil {
		return fmt.Errorf("%s %016x: %w", ch.Kind, ch.RaftID, err)
	}
	return nil
}

// TransferLeadership hands leadership to the best of the other voters and
// returns when this member does not lead any more. why is told to the next leader.
func (r *Runner) TransferLeadership(ctx context.Context, why string) error {
	again := time.NewTicker(time.Duration(r.cfg.ElectionTicks) * r.cfg.Tick)
	defer again.Stop()
	for {
		st, changed := r.board.get()
		if !st.Leading {
			return nil
		}
		found := make(chan bool, 1)
		r.inbox.put(func(w *work) { w.calls = append(w.calls, func(c *Core) { found <- c.Transfer(why) }) })
		select {
		case ok := <-found:
			if !ok {
				return fmt.Errorf("hand over leadership: no other voter answers: %w", errdefs.ErrFailedPrecondition)
			}
		case <-ctx.Done():
			return fmt.Errorf("hand over leadership: %w", ctx.Err())
		case <-r.stop:
			return nil
		}
		select {
		case <-r.stop:
			return nil
		case <-changed:
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("hand over leadership: %w", ctx.Err())
		}
	}
}

// SetPeer says where a member is reached. It may be called at any time.
func (r *Runner) SetPeer(raftID uint64, address string) {
	if raftID != r.cfg.RaftID {
		r.cfg.Transport.SetPeer(raftID, address)
	}
}

// RemovePeer forgets a member's address.
func (r *Runner) RemovePeer(raftID uint64) { r.cfg.Transport.RemovePeer(raftID) }

// Step takes a message of another member; see Handler.
func (r *Runner) Step(_ context.Context, m *raftpb.Message) error {
	if m.GetTo() != r.cfg.RaftID {
		return fmt.Errorf("message for member %016x came to %016x: %w", m.GetTo(), r.cfg.RaftID, errdefs.ErrInvalidArgument)
	}
	if m.GetType() == raftpb.MsgSnap {
		return fmt.Errorf("snapshot without its state: %w", errdefs.ErrInvalidArgument)
	}
	if !r.inbox.message(m) {
		return fmt.Errorf("too many messages wait: %w", errdefs.ErrResourceExhausted)
	}
	return nil
}

// ReceiveSnapshot takes a snapshot with its state; see Handler.
func (r *Runner) ReceiveSnapshot(_ context.Context, m *raftpb.Message, file io.Reader) error {
	if m.GetType() != raftpb.MsgSnap || m.GetTo() != r.cfg.RaftID {
		return fmt.Errorf("snapshot stream begins with %v for member %016x: %w", m.GetType(), m.GetTo(), errdefs.ErrInvalidArgument)
	}
	if lost := r.lost.Load(); lost != nil {
		return *lost
	}
	manifest, err := ParseManifest(m.GetSnapshot())
	if err != nil {
		return err
	}
	cluster, err1 := id.FromBytes(manifest.GetCluster())
	history, err2 := id.FromBytes(manifest.GetHistory())
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("receive snapshot: %w", err)
	}
	if cluster != r.cfg.Cluster || history != r.cfg.History {
		return fmt.Errorf("receive snapshot: of cluster %s, history %s; here is %s, %s: %w", cluster, history, r.cfg.Cluster, r.cfg.History, errdefs.ErrFailedPrecondition)
	}
	if err := r.disk.Load().ReceiveState(manifest, file); err != nil {
		return err
	}
	r.inbox.message(m)
	return nil
}

// OpenSnapshot opens the state of a snapshot message; see Handler.
func (r *Runner) OpenSnapshot(m *raftpb.Message) (io.ReadCloser, error) {
	manifest, err := ParseManifest(m.GetSnapshot())
	if err != nil {
		return nil, err
	}
	return r.disk.Load().OpenState(manifest)
}

// ReportUnreachable says that messages to a member were lost; see Handler.
func (r *Runner) ReportUnreachable(raftID uint64) {
	r.call(func(c *Core) { c.ReportUnreachable(raftID) })
}

// ReportSnapshot says how sending a snapshot ended; see Handler.
func (r *Runner) ReportSnapshot(raftID uint64, ok bool) {
	r.call(func(c *Core) { c.ReportSnapshot(raftID, ok) })
}

// PeerGone says that a member's process is dead; see Handler.
func (r *Runner) PeerGone(raftID uint64) { r.call(func(c *Core) { c.PeerGone(raftID) }) }

// call has the step goroutine do something to a core that is in its quorum.
func (r *Runner) call(do func(*Core)) {
	r.inbox.put(func(w *work) {
		w.calls = append(w.calls, func(c *Core) {
			if r.lost.Load() == nil {
				do(c)
			}
		})
	})
}
