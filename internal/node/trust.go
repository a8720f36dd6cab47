package node

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/skep-project/skep/ca"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// trust is the newest word on roots that a life has heard: changes are counted
// within a history, and a manager that is behind may say an older one later.
type trust struct {
	history string
	count   uint64
}

// follows reports whether w is as new as t or newer.
func (t trust) follows(w *dispatchv1.Wish) bool {
	return t.history != string(w.GetHistory()) || w.GetTrust() >= t.count
}

// onRoots takes in the roots that are to be trusted, and has the certificate
// renewed if it is to be of another of them.
func (l *life) onRoots(w *dispatchv1.Wish) {
	if len(w.GetRoots()) == 0 {
		return
	}
	if err := l.trustRoots(w); err != nil {
		l.node.cfg.Log.Warn("the swarm's roots are not taken; what was trusted before still is", "err", err)
		return
	}
	root, err := ca.DigestFromBytes(w.GetIssuer())
	if err == nil && !l.node.holder.Get().SignedBy(root) {
		l.renewer.Under(root, time.Duration(w.GetSpread()))
	}
}

// trustRoots keeps the roots of w, durably, before they are used. Roots that do not
// vouch for this node's own certificate are not taken: with them it would be cut
// off from what it still may talk to.
func (l *life) trustRoots(w *dispatchv1.Wish) error {
	roots, err := ca.ParseBundle(w.GetRoots())
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.trust.follows(w) {
		return nil
	}
	l.trust = trust{history: string(w.GetHistory()), count: w.GetTrust()}
	held := l.node.holder.Get()
	if held.Roots.Digest() == roots.Digest() {
		return nil
	}
	cred, err := held.With(roots)
	if err != nil {
		return fmt.Errorf("this node's certificate is of none of the roots that the swarm trusts: %w", err)
	}
	if string(held.Chain[0]) != string(l.me.Chain[0]) {
		return nil // a renewal is being kept; its session brings the roots again
	}
	next := *l.me
	next.Roots = roots.DER()
	if err := l.node.keys.Save(&next); err != nil {
		return err
	}
	l.me = &next
	l.node.holder.Set(cred)
	l.tellTrust(roots)
	l.node.cfg.Log.Info("other roots are trusted", slog.Int("roots", len(next.Roots)))
	return nil
}

// tellTrust has the managers know which roots are trusted.
func (l *life) tellTrust(roots *ca.Bundle) {
	d := roots.Digest()
	l.agent.Trusts(d[:])
}
