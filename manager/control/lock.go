package control

import (
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// autolock makes an unlock key for a cluster that wants one, and forgets it for
// one that does not. When managers begin to be locked the data keys are replaced:
// they lay on disks whose own key lay in clear. c is the caller's own copy.
func autolock(c *modelv1.Cluster, drawn sealed.Secret) {
	switch has := len(c.GetUnlockKey()) > 0; {
	case c.GetSpec().GetAutolock() && !has:
		c.UnlockKey, c.UnlockNumber = drawn.Reveal(), c.GetUnlockNumber()+1
		store.StaleKeys(c, "autolock was turned on")
	case !c.GetSpec().GetAutolock() && has:
		c.UnlockKey, c.UnlockNumber = nil, c.GetUnlockNumber()+1
	}
}

// errNoLock refuses to show or rotate what there is not.
func errNoLock() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the managers of this swarm are not locked: there is no unlock key"),
		"lock them with: ctl swarm update --autolock=true")
}

// GetUnlockKey shows the unlock key, and which managers are not sealed under it yet.
func (s *Server) GetUnlockKey(context.Context, *controlv1.GetUnlockKeyRequest) (*controlv1.GetUnlockKeyResponse, error) {
	snap := s.snapshot()
	c, err := cluster(snap)
	if err != nil {
		return nil, err
	}
	if len(c.GetUnlockKey()) == 0 {
		return nil, errNoLock()
	}
	return &controlv1.GetUnlockKeyResponse{UnlockKey: spellUnlock(c), Number: c.GetUnlockNumber(), Behind: lockedOtherwise(snap, c)}, nil
}

// RotateUnlockKey draws another unlock key. Each manager seals its keys under it
// when it applies the entry; one that is down, when it is back.
func (s *Server) RotateUnlockKey(ctx context.Context, msg *controlv1.RotateUnlockKeyRequest) (*controlv1.RotateUnlockKeyResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	key := sealed.NewUnlockKey()
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		if len(c.GetUnlockKey()) == 0 {
			return errNoLock()
		}
		c = proto.CloneOf(c)
		c.UnlockKey, c.UnlockNumber = key.Reveal(), c.GetUnlockNumber()+1
		return tx.PutCluster(c)
	})
	if err != nil {
		return nil, err
	}
	c := s.snapshot().Cluster()
	return &controlv1.RotateUnlockKeyResponse{UnlockKey: spellUnlock(c), Number: c.GetUnlockNumber()}, nil
}

func spellUnlock(c *modelv1.Cluster) string {
	return string(sealed.SpellUnlockKey(sealed.NewSecret(c.GetUnlockKey())).Reveal())
}

// lockedOtherwise names the managers whose own keys are not sealed under the
// unlock key there is, as far as they have said.
func lockedOtherwise(snap *store.Snapshot, c *modelv1.Cluster) []string {
	locked := map[string]uint64{}
	for _, h := range c.GetKeyHolders() {
		locked[string(h.GetNode())] = h.GetLocked()
	}
	var out []string
	for m := range snap.Members() {
		if locked[string(m.GetNode())] == c.GetUnlockNumber() {
			continue
		}
		node := idOf(m.GetNode())
		name := snap.Node(node).GetDescription().GetHostname()
		if name == "" {
			name = node.Short()
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
