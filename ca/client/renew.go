package client

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	firstRetry = time.Second
	// maxRetry is the longest pause between two tries; less for a certificate that
	// lives less than 20 hours.
	maxRetry = time.Hour
	// expiredRetry is the longest pause of a node whose certificate has ended.
	expiredRetry = time.Minute
	// waitPause is how often a node asks whether an operator has allowed what it
	// waits for.
	waitPause = 10 * time.Second
	// demandPause is the least time between two renewals that were asked for.
	demandPause = 5 * time.Second
	tryTimeout  = 30 * time.Second
)

// RenewerConfig configures a Renewer. Roll may be nil; the rest is required.
type RenewerConfig struct {
	// Holder is where handshakes take the credential from.
	Holder *ca.Holder
	// Pending returns the next key, kept on disk before it is used, and the same
	// until Save.
	Pending func() (*ecdsa.PrivateKey, error)
	// Save keeps a credential and its key, durably, and forgets the pending key.
	// managers may be nil.
	Save func(cred *ca.Credential, key *ecdsa.PrivateKey, managers *cav1.ManagerList) error
	// Renew asks any manager, under the present credential. It returns neither a
	// certificate nor an error if an operator has to allow it first.
	Renew func(ctx context.Context, csr []byte) (*cav1.Issued, error)
	// Waits is told, each time it asks, that the node waits for an operator, and with
	// nil that it does no more. It must not block. May be nil.
	Waits func(*Waiting)
	// Renewed is told of the new credential once it is in use. It must not block.
	Renewed func(cred *ca.Credential)
	// Roll draws from [0, 1). Nil means math/rand.
	Roll func() float64
	Log  *slog.Logger
}

// A Renewer keeps a node's certificate young.
type Renewer struct {
	cfg  RenewerConfig
	now  chan struct{} // capacity 1: a demand that is waiting stands for all
	role atomic.Int32  // that the last demand was for
	root atomic.Pointer[underRoot]
	last time.Time // of the last renewal that was demanded
	// refused is set by a demand that has no role for its reason, until it is heard.
	refused atomic.Bool
	at      atomicTime
}

// NewRenewer returns a renewer that does nothing until Run.
func NewRenewer(cfg RenewerConfig) (*Renewer, error) {
	if cfg.Holder == nil || cfg.Pending == nil || cfg.Save == nil || cfg.Renew == nil || cfg.Log == nil {
		return nil, errors.New("renewer: holder, pending, save, renew and log are needed")
	}
	if cfg.Roll == nil {
		cfg.Roll = rand.Float64
	}
	if cfg.Waits == nil {
		cfg.Waits = func(*Waiting) {}
	}
	if cfg.Renewed == nil {
		cfg.Renewed = func(*ca.Credential) {}
	}
	return &Renewer{cfg: cfg, now: make(chan struct{}, 1)}, nil
}

// Now asks for a renewal at once: the record wants this role. It is forgotten if
// the certificate has it by the time. Now never blocks.
func (r *Renewer) Now(role modelv1.Role) {
	r.role.Store(int32(role))
	r.wake()
}

// underRoot is a demand for a certificate of one root.
type underRoot struct {
	digest ca.Digest
	spread time.Duration
}

// Under asks for a renewal within spread, at a moment drawn from it: the certificate
// is to be of this root, which is among those that are trusted. It is forgotten if
// it is so by the time. Under never blocks.
func (r *Renewer) Under(root ca.Digest, spread time.Duration) {
	r.root.Store(&underRoot{root, spread})
	r.wake()
}

// Again asks for a renewal at once, whatever role the certificate has: the managers
// refuse it. It never blocks.
func (r *Renewer) Again() {
	r.refused.Store(true)
	r.wake()
}

// wake has Run look at what is demanded.
func (r *Renewer) wake() {
	select {
	case r.now <- struct{}{}:
	default:
	}
}

// demanded reports whether cred is not what was asked for last, and from what time
// the moment to renew it is drawn.
func (r *Renewer) demanded(cred *ca.Credential) (spread time.Duration, yes bool) {
	if role := modelv1.Role(r.role.Load()); role != modelv1.Role_ROLE_UNSPECIFIED && cred.Identity.Role != role {
		return 0, true
	}
	if root := r.root.Load(); root != nil && !cred.SignedBy(root.digest) {
		return root.spread, true
	}
	return 0, false
}

// NextAt returns when the next renewal is due, zero if nothing is planned yet.
func (r *Renewer) NextAt() time.Time { return r.at.load() }

// Run renews until ctx ends.
func (r *Renewer) Run(ctx context.Context) error {
	for {
		cred := r.cfg.Holder.Get()
		if cred == nil {
			return errors.New("renewer: the node has no certificate")
		}
		if !r.wait(ctx, cred) || !r.renew(ctx) {
			return nil
		}
	}
}

// wait returns true when a renewal is due or demanded, false when ctx ends.
func (r *Renewer) wait(ctx context.Context, cred *ca.Credential) bool {
	at := ca.RenewAt(cred.IssuedAt, cred.Identity.NotAfter, r.cfg.Roll())
	// Not twice within 5 % of the life, whatever clocks and rolls say (R21).
	if least := cred.IssuedAt.Add(ca.RenewPause(cred.IssuedAt, cred.Identity.NotAfter)); at.Before(least) {
		at = least
	}
	r.at.store(at)
	due := time.NewTimer(time.Until(at))
	defer due.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-due.C:
			return true
		case <-r.now:
		}
		// The record may have been asked for the role twice: before its answer came too.
		spread, yes := r.demanded(cred)
		if again := r.refused.Swap(false); again || yes {
			pause := max(0, time.Until(r.last.Add(demandPause))) + time.Duration(r.cfg.Roll()*float64(spread))
			r.last = time.Now().Add(pause)
			return sleep(ctx, pause)
		}
	}
}

// renew tries until it succeeds (true) or ctx ends (false).
func (r *Renewer) renew(ctx context.Context) bool {
	cred := r.cfg.Holder.Get()
	last := min(maxRetry, ca.RenewPause(cred.IssuedAt, cred.Identity.NotAfter))
	for delay := firstRetry; ; delay = min(2*delay, last) {
		if time.Now().After(cred.Identity.NotAfter) {
			last = min(last, expiredRetry) // nothing goes without one
		}
		err := r.once(ctx)
		if err == nil {
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if _, waits := errors.AsType[*Waiting](err); waits {
			delay = min(waitPause, last)
		}
		// From 75 to 125 hundredths, so that nodes do not come back together.
		pause := time.Duration((0.75 + 0.5*r.cfg.Roll()) * float64(delay))
		r.say(ctx, err, pause)
		if !r.pause(ctx, pause) {
			return false
		}
	}
}

// pause waits for d or a demand; false if ctx ends.
func (r *Renewer) pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-r.now:
		return sleep(ctx, firstRetry)
	}
}

func (r *Renewer) say(ctx context.Context, err error, pause time.Duration) {
	cred := r.cfg.Holder.Get()
	facts := []slog.Attr{slog.Any("err", err), slog.String("hint", rpc.HintOf(err)),
		slog.Time("not_after", cred.Identity.NotAfter), slog.Duration("next", pause)}
	if time.Now().After(cred.Identity.NotAfter) {
		r.cfg.Log.LogAttrs(ctx, slog.LevelError, "certificate expired and not renewed, trying again", facts...)
		return
	}
	r.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "certificate not renewed, trying again", facts...)
}

// waits is the error of a node that an operator has to allow its certificate.
func (r *Renewer) waits(csr []byte) error {
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		return err
	}
	w := &Waiting{Node: r.cfg.Holder.Get().Identity.Node, Key: pub.SHA256}
	r.cfg.Waits(w)
	return w
}

func (r *Renewer) once(ctx context.Context) error {
	key, err := r.cfg.Pending()
	if err != nil {
		return err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, tryTimeout)
	defer stop()
	issued, err := r.cfg.Renew(ctx, csr)
	if err != nil {
		return err
	}
	if issued == nil {
		return r.waits(csr)
	}
	r.cfg.Waits(nil)
	cred, err := Accept(issued, key)
	if err != nil {
		return err
	}
	old := r.cfg.Holder.Get().Identity
	if now := cred.Identity; now.Cluster != old.Cluster || now.Node != old.Node || now.Generation <= old.Generation {
		return fmt.Errorf("the authority gave node %s generation %d for node %s generation %d", now.Node, now.Generation, old.Node, old.Generation)
	}
	if err := r.cfg.Save(cred, key, issued.GetManagers()); err != nil {
		return err
	}
	r.cfg.Holder.Set(cred)
	r.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "certificate renewed", slog.String("node", old.Node.String()),
		slog.Uint64("generation", cred.Identity.Generation), slog.String("role", cred.Identity.Role.String()),
		slog.Time("not_after", cred.Identity.NotAfter))
	r.cfg.Renewed(cred)
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(max(0, d))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
