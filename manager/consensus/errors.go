package consensus

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/manager/consensus/disk"
)

// The ends of a call that did not do what was asked.
var (
	// ErrNoQuorum ends a read that no leader confirmed in time.
	ErrNoQuorum = fmt.Errorf("no quorum of managers confirms a leader: %w", errdefs.ErrUnavailable)
	// ErrUnknown ends a proposal that may or may not have been applied. The
	// caller asks the table of answered requests, after a ReadIndex (R10).
	ErrUnknown = fmt.Errorf("whether it was done is not known yet: %w", errdefs.ErrUnknown)
	// ErrRefused ends a proposal that will never be applied: try again.
	ErrRefused = fmt.Errorf("not taken into the log, so it is safe to try again: %w", errdefs.ErrUnavailable)
	// ErrLogFailed ends calls while the log on disk cannot be written (R23).
	ErrLogFailed = fmt.Errorf("this manager cannot write its log: %w", errdefs.ErrUnavailable)
	// ErrDiskFull ends proposals while too little space is free (R23).
	ErrDiskFull = fmt.Errorf("too little disk space for the log: %w", errdefs.ErrResourceExhausted)
	// ErrTooLarge ends a transaction that fits in no entry.
	ErrTooLarge = fmt.Errorf("transaction is larger than an entry: %w", errdefs.ErrInvalidArgument)
	// ErrSpliced stops the runner: an entry is not the one that must follow (R19).
	ErrSpliced = fmt.Errorf("the log holds an entry that does not follow the one before it; this manager must rejoin: %w", errdefs.ErrDataLoss)
	// ErrRolledBack stops the runner or keeps it from starting (R24).
	ErrRolledBack = disk.ErrRolledBack
	// ErrChangePending ends a membership change while another is under way (R25).
	ErrChangePending = fmt.Errorf("another change of the managers' membership is under way: %w", errdefs.ErrUnavailable)
	// ErrWouldLoseQuorum ends a membership change that the reachable voters could not commit after.
	ErrWouldLoseQuorum = fmt.Errorf("the change would lose the quorum: %w", errdefs.ErrFailedPrecondition)
)

// ErrNotLeader ends a proposal on a member that does not lead. Only errors.As
// is of use on it: the forwarder reads who leads.
type ErrNotLeader struct {
	// Leader is the raft id of the leader, 0 when none is known.
	Leader uint64
}

// Error says who leads.
func (e ErrNotLeader) Error() string {
	if e.Leader == 0 {
		return "this manager does not lead and knows no leader"
	}
	return fmt.Sprintf("this manager does not lead; member %016x does", e.Leader)
}

// Unwrap gives the kind.
func (e ErrNotLeader) Unwrap() error { return errdefs.ErrUnavailable }
