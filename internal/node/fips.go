package node

import (
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
)

// errNotFIPS is the refusal of what this daemon may do in FIPS 140-3 mode only.
func errNotFIPS(doing string) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "%s: this daemon does not run in FIPS 140-3 mode", doing), rpc.FIPSHint)
}

// errUnfit is why this node does not live as a member.
func errUnfit() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition,
		"this node's swarm asks for FIPS 140-3 mode, and this daemon does not run in it; its containers are left as they are"), rpc.FIPSHint)
}

// unfit reports whether this node is a member of a swarm that asks for FIPS 140-3
// mode and its daemon was started without it. Nothing is done with its keys until
// the daemon is started again. A manager that is locked is found out when it is
// unlocked.
func (n *Node) unfit() bool {
	me, err := n.keys.Load()
	return err == nil && me.Facts.FIPS && !n.cfg.FIPS
}
