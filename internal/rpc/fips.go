package rpc

import (
	"github.com/containerd/errdefs"
)

// FIPSHint is what to do about a daemon that is not in FIPS 140-3 mode.
const FIPSHint = `start the daemon there as "ctl daemon --fips": SKEP_FLAGS="--fips" in /etc/default/skep, then "systemctl restart skep"`

// RefuseFIPS is the refusal of doing something with a daemon that is not in FIPS
// 140-3 mode, where the swarm asks for it of each node.
func RefuseFIPS(doing string) error {
	return Refuse(Errorf(errdefs.ErrFailedPrecondition,
		"%s: the swarm asks for FIPS 140-3 mode of each node, and this node's daemon does not run in it", doing), FIPSHint)
}
