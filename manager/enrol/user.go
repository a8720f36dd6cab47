package enrol

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// User returns the role of a user whose certificate is current.
func (a *Authorizer) User(ctx context.Context, p rpc.UserProof) (modelv1.UserRole, error) {
	if err := a.contact(ctx, p.Open, p.Stale); err != nil {
		return 0, err
	}
	u, v := a.lookUp(p)
	switch {
	case v != newer && v != unknown:
	case p.Open && v == newer:
		// Another manager knew it when the stream was opened: this one is behind.
		return u.GetRole(), nil
	case (p.Open || p.Stale) && !a.InContact():
		return 0, fmt.Errorf("user %s: not known here: %w", p.Name, errdefs.ErrUnavailable)
	case !p.Open:
		// Perhaps this replica is behind: have it catch up and look again.
		wait, stop := context.WithTimeout(ctx, lookAgain)
		defer stop()
		if err := a.Barrier(wait); err != nil {
			return 0, fmt.Errorf("user %s: the record is newer than this manager's: %w", p.Name, err)
		}
		u, v = a.lookUp(p)
	}
	return u.GetRole(), concludeUser(u, v, p)
}

func (a *Authorizer) lookUp(p rpc.UserProof) (*modelv1.User, verdict) {
	snap := a.Store.Snapshot()
	u := snap.User(p.UserIdentity.User)
	if u == nil {
		return nil, unknown
	}
	return u, compare(snap.Cluster().GetRoot(), u, p.Generation, p.KeySHA256)
}

// concludeUser says why a user is refused; nil if he is not.
func concludeUser(u *modelv1.User, v verdict, p rpc.UserProof) error {
	switch v {
	case current:
		return nil
	case former:
		// It may always repeat the request that replaced it (R17: the answer may have
		// been lost); control answers only the key that was recorded.
		if p.Method == controlv1.Control_RenewUser_FullMethodName || stillGood(u.GetPrevious(), p.Since) {
			return nil
		}
	case dropped:
		return rootDropped("user "+p.Name, reissue(p.Name))
	case unknown:
		return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "user %s was removed from the swarm", p.Name),
			fmt.Sprintf("an admin lets you in again with: ctl user create %s -o FILE", p.Name))
	case newer:
		return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated,
			"certificate of user %s has generation %d and the record knows only %d: the swarm was restored from an older state",
			p.Name, p.Generation, u.GetCurrent().GetGeneration()), reissue(p.Name))
	case older:
	}
	return rpc.Refuse(rpc.Errorf(errdefs.ErrUnauthenticated,
		"certificate of user %s, generation %d: a newer one has taken its place", p.Name, p.Generation), reissue(p.Name))
}

// reissue is the way back for a user whose certificate counts no more.
func reissue(name string) string {
	return fmt.Sprintf("have an admin make another: ctl user renew %s -o FILE", name)
}
