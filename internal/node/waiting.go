package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// askEvery is about how often a node asks whether it was accepted. The 256 that may
// wait are a quarter of what managers answer to strangers.
const askEvery = 10 * time.Second

// A wait is that of a node which an operator has to accept first. It waits by
// itself: what it asks with is on its disk, so that neither the end of "ctl swarm
// join" nor a reboot loses its place.
type wait struct {
	// on is what it was told; nil while it does not wait.
	on *client.Waiting
	// fault is why it could not ask of late; nil if it could.
	fault error
	// token is what it waits with, or has waited with since the daemon started.
	token ca.Token
}

func (w wait) by(token ca.Token) bool {
	return w.token.Digest == token.Digest && !token.Secret.IsZero() && w.token.Secret.Equal(token.Secret)
}

// words says what is waited for, and what is in the way of asking.
func (w wait) words() string {
	text := fmt.Sprintf("this node waits for an operator to accept it; its key is %s", w.on.Key.Fingerprint())
	if w.fault != nil {
		text += "; it asks on, of late in vain: " + w.fault.Error()
	}
	return text
}

func (n *Node) setWait(w wait) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wait = w
}

func (n *Node) waits() wait {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.wait
}

// errCameIn says that a node asks to join that was let in by the same token since
// its daemon started.
var errCameIn = errors.New("this node was let in")

// ask asks once to be let in, and keeps what came of it.
func (n *Node) ask(ctx context.Context, token ca.Token, req *localv1.JoinRequest) error {
	err := n.enrol(ctx, token, req)
	if on, waits := errors.AsType[*client.Waiting](err); waits {
		return cmp.Or(n.keepWaiting(token, req, on), err)
	}
	switch was := n.waits(); {
	case err == nil && was.on != nil && was.by(token):
		n.setWait(wait{token: token})
		return n.keys.ClearRequest()
	case err == nil:
		n.setWait(wait{})
		return n.keys.ClearRequest()
	case was.on != nil && was.by(token) && errdefs.IsPermissionDenied(err):
		// Rejected, or forgotten: to ask again is of no use.
		n.setWait(wait{})
		return errors.Join(err, n.keys.ClearRequest())
	case was.on != nil && was.by(token):
		was.fault = err
		n.setWait(was)
	}
	return err
}

// keepWaiting keeps what this node asks with, unless it is kept already.
func (n *Node) keepWaiting(token ca.Token, req *localv1.JoinRequest, on *client.Waiting) error {
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(req)
	if err != nil {
		return fmt.Errorf("keep the request to join: %w", err)
	}
	if kept, err := n.keys.LoadRequest(); err != nil || !kept.Equal(sealed.NewSecret(text)) {
		if err := n.keys.SaveRequest(sealed.NewSecret(text)); err != nil {
			return err
		}
	}
	n.setWait(wait{on: on, token: token})
	n.set(localv1.State_STATE_PENDING, nil, nil) // before whoever gave the order looks
	return nil
}

// asked returns what this node waits with; nil if it does not wait.
func (n *Node) asked(ctx context.Context) *localv1.JoinRequest {
	text, err := n.keys.LoadRequest()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	req := &localv1.JoinRequest{}
	if err == nil {
		err = proto.Unmarshal(text.Reveal(), req)
	}
	if err != nil {
		n.cfg.Log.LogAttrs(ctx, slog.LevelError, "what this node waited to join with cannot be read; join again", slog.Any("err", err))
		return nil
	}
	return req
}

// resume takes up the wait of a former daemon of this node.
func (n *Node) resume(req *localv1.JoinRequest) (wait, error) {
	if w := n.waits(); w.on != nil {
		return w, nil
	}
	token, err := ca.ParseToken(req.GetToken())
	if err != nil {
		return wait{}, err
	}
	key, err := n.keys.Pending()
	if err != nil {
		return wait{}, err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return wait{}, fmt.Errorf("the key of this node: %w", err)
	}
	w := wait{on: &client.Waiting{Key: sha256.Sum256(public)}, token: token}
	n.setWait(w)
	return w, nil
}

// awaitAcceptance waits to be let in. It returns when that is so, when an order was
// obeyed, or with an error when it shall never be.
func (n *Node) awaitAcceptance(ctx context.Context, req *localv1.JoinRequest) error {
	w, err := n.resume(req)
	if err != nil {
		return errors.Join(fmt.Errorf("go on waiting to join: %w", err), n.keys.ClearRequest())
	}
	n.set(localv1.State_STATE_PENDING, nil, nil)
	first := askEvery
	if w.on.Node.IsZero() { // not asked since the daemon started
		first = 0
	}
	due := time.NewTimer(first)
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case o := <-n.orders:
			o.done <- n.obey(ctx, o)
			return nil
		case <-due.C:
		}
		err := n.ask(ctx, w.token, req)
		if err == nil || n.waits().on == nil {
			return err
		}
		due.Reset(askEvery*9/10 + rand.N(askEvery/5))
	}
}

// describeWait fills in what "ctl info" shows of a node that waits.
func (n *Node) describeWait(out *localv1.InfoResponse) {
	w := n.waits()
	if w.on == nil {
		return
	}
	out.PendingKey, out.Error = w.on.Key[:], w.words()
	if !w.on.Node.IsZero() {
		out.Node, out.PendingUntil = w.on.Node.Bytes(), w.on.Until.UnixNano()
	}
}

// errWaits is the refusal of what a node cannot do that waits.
func errWaits(w wait) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "%s", w.words()),
		`an operator lets it in with "ctl node accept" on a manager; "ctl swarm leave" gives it up`)
}

// refuseIfTaken refuses what only a node can do that is in no swarm and waits for
// none.
func (n *Node) refuseIfTaken(ctx context.Context, life *life) error {
	if w := n.waits(); life == nil && w.on != nil {
		return errWaits(w)
	}
	return refuseIfMember(ctx, life)
}
