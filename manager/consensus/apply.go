package consensus

import (
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// ManifestFormat is the only format of a snapshot's manifest that is known.
const ManifestFormat = 1

// An Applier gives committed entries to the Machine. It opens them, checks that
// each follows the one before (R19), follows the membership, and ends the
// proposals of this member. It is stepped and for one goroutine.
type Applier struct {
	machine  Machine
	opener   *sealed.Opener
	fates    *Fates
	blind    bool
	index    uint64 // of the last entry applied
	term     uint64 // its term
	lastTerm uint64 // header of the last sealed entry
	lastSeq  uint64
	conf     *raftpb.ConfState
}

// Accepted is a membership change that the Machine accepted, and the membership
// after it.
type Accepted struct {
	change *raftpb.ConfChange
	conf   *raftpb.ConfState
	index  uint64
}

// NewApplier returns an applier at index 0. A nil machine makes it blind: it
// follows the log and reads nothing of it.
func NewApplier(machine Machine, ring *sealed.Ring, cluster, history id.ID, fates *Fates) *Applier {
	return &Applier{
		machine: machine, opener: sealed.NewOpener(ring, cluster, history), fates: fates,
		blind: machine == nil, conf: &raftpb.ConfState{},
	}
}

// Index returns the last entry applied.
func (a *Applier) Index() uint64 { return a.index }

// Term returns the term of the last entry applied.
func (a *Applier) Term() uint64 { return a.term }

// Conf returns the membership after the last entry applied.
func (a *Applier) Conf() *raftpb.ConfState { return a.conf }

// Apply applies one committed entry. An error means that this member must
// stop, but for sealed.ErrUnknownKey, after which the same entry may be tried
// again. accepted is nil if the entry changed no membership.
func (a *Applier) Apply(e *raftpb.Entry) (accepted *Accepted, err error) {
	if e.GetIndex() <= a.index {
		return nil, nil // applied before the restart of a log that failed
	}
	if e.GetIndex() != a.index+1 {
		return nil, fmt.Errorf("apply entry %d after %d: %w", e.GetIndex(), a.index, ErrSpliced)
	}
	switch e.GetType() {
	case raftpb.EntryNormal:
		err = a.normal(e)
	case raftpb.EntryConfChange:
		accepted, err = a.membership(e)
	default:
		err = fmt.Errorf("entry type %v is not known to this version; run the version that wrote it: %w", e.GetType(), errdefs.ErrNotImplemented)
	}
	if err != nil {
		return nil, fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
	}
	a.index, a.term = e.GetIndex(), e.GetTerm()
	return accepted, nil
}

func (a *Applier) normal(e *raftpb.Entry) error {
	if len(e.GetData()) == 0 {
		a.fates.passed(e.GetTerm())
		if !a.blind {
			a.machine.Apply(e.GetIndex(), 0, nil)
		}
		return nil
	}
	if a.blind {
		return nil
	}
	entry, err := a.open(e, e.GetData(), 1)
	if err != nil {
		return err
	}
	errs, err := a.run(e.GetIndex(), entry)
	if err != nil {
		return err
	}
	a.lastTerm, a.lastSeq = entry.GetTerm(), entry.GetSequence()
	a.fates.applied(entry.GetTerm(), entry.GetSequence(), nil, e.GetIndex(), errs)
	return nil
}

func (a *Applier) membership(e *raftpb.Entry) (*Accepted, error) {
	cc := &raftpb.ConfChange{}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return nil, fmt.Errorf("its membership change: %w: %w", err, ErrSpliced)
	}
	next := &Accepted{change: cc, conf: changed(a.conf, cc), index: e.GetIndex()}
	if a.blind {
		// It cannot see whether the Machine accepts the change: while a group has
		// a blind member, the transaction of a change must not be able to conflict.
		a.conf = next.conf
		return next, nil
	}
	entry, err := a.open(e, cc.GetContext(), 0)
	if err != nil {
		return nil, err
	}
	errs, err := a.run(e.GetIndex(), entry)
	if err != nil {
		return nil, err
	}
	refused := len(errs) > 0 && errs[0] != nil
	if !refused {
		a.conf = next.conf
	}
	a.lastTerm = entry.GetTerm()
	a.lastSeq = entry.GetSequence()
	a.fates.applied(entry.GetTerm(), entry.GetSequence(), entry.GetNonce(), e.GetIndex(), errs)
	if refused {
		return nil, nil
	}
	return next, nil
}

// open opens data and checks that its header is step after the last one.
func (a *Applier) open(e *raftpb.Entry, data []byte, step uint64) (*logv1.Entry, error) {
	entry, err := a.opener.Open(data)
	if err != nil {
		return nil, err
	}
	want := step
	if entry.GetTerm() == a.lastTerm {
		want = a.lastSeq + step
	}
	if entry.GetTerm() != e.GetTerm() || entry.GetTerm() < a.lastTerm || entry.GetSequence() != want {
		return nil, fmt.Errorf("it is (%d, %d) in an entry of term %d, after (%d, %d): %w",
			entry.GetTerm(), entry.GetSequence(), e.GetTerm(), a.lastTerm, a.lastSeq, ErrSpliced)
	}
	return entry, nil
}

// run gives the entry to the machine. An error of the kind NotImplemented in
// its answer stops the node: it does not understand the entry (D14).
func (a *Applier) run(index uint64, e *logv1.Entry) ([]error, error) {
	errs := a.machine.Apply(index, e.GetClock(), e.GetTransactions())
	for _, err := range errs {
		if err != nil && errdefs.IsNotImplemented(err) {
			return nil, err
		}
	}
	return errs, nil
}

// Manifest returns the manifest of a snapshot at this point, without file, size
// and hash.
func (a *Applier) Manifest(cluster, history id.ID) *logv1.Manifest {
	return &logv1.Manifest{
		Format: ManifestFormat, LastTerm: a.lastTerm, LastSequence: a.lastSeq,
		Cluster: cluster.Bytes(), History: history.Bytes(),
	}
}

// ParseManifest returns the manifest in a snapshot.
func ParseManifest(snap *raftpb.Snapshot) (*logv1.Manifest, error) {
	m := &logv1.Manifest{}
	if err := proto.Unmarshal(snap.GetData(), m); err != nil {
		return nil, fmt.Errorf("snapshot %d: its manifest: %w: %w", snap.GetMetadata().GetIndex(), err, errdefs.ErrDataLoss)
	}
	if m.GetFormat() != ManifestFormat {
		return nil, fmt.Errorf("snapshot %d: format %d, this version knows %d; run the version that wrote it: %w",
			snap.GetMetadata().GetIndex(), m.GetFormat(), ManifestFormat, errdefs.ErrNotImplemented)
	}
	return m, nil
}

// Restore puts the machine in the state that plain holds and goes on from the
// snapshot.
func (a *Applier) Restore(snap *raftpb.Snapshot, plain io.Reader) error {
	m, err := ParseManifest(snap)
	if err != nil {
		return err
	}
	meta := snap.GetMetadata()
	if !a.blind {
		if err := a.machine.Restore(plain); err != nil {
			return fmt.Errorf("restore snapshot %d: %w", meta.GetIndex(), err)
		}
	}
	a.index, a.term = meta.GetIndex(), meta.GetTerm()
	a.lastTerm, a.lastSeq = m.GetLastTerm(), m.GetLastSequence()
	a.conf = proto.CloneOf(meta.GetConfState())
	a.fates.skipped(meta.GetTerm(), m.GetLastTerm(), m.GetLastSequence())
	return nil
}
