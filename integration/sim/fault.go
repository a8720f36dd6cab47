package sim

import (
	"encoding/binary"

	"github.com/skep-project/skep/manager/consensus"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

// fault breaks something, or mends it.
func (w *World) fault() {
	for _, m := range w.members {
		switch {
		case !m.alive() && w.now >= m.downTo:
			m.boot()
		case m.alive() && w.rng.Float64() < w.opt.Crash:
			m.crash(1 + w.rng.IntN(100))
		case m.alive() && w.rng.Float64() < w.opt.Stall:
			m.stall = w.now + w.rng.IntN(60)
		case m.alive() && w.rng.Float64() < w.opt.Crash/4:
			m.core.Transfer("")
		}
	}
	if w.now >= w.healAt && len(w.cut) > 0 {
		clear(w.cut)
	}
	if w.rng.Float64() < w.opt.Part {
		w.part()
	}
	if w.rng.Float64() < w.opt.Change {
		w.change()
	}
	if w.rng.Float64() < w.opt.Part {
		w.hint()
	}
}

// part splits the members in two groups, or cuts one pair.
func (w *World) part() {
	clear(w.cut)
	w.healAt = w.now + 10 + w.rng.IntN(150)
	side := map[uint64]bool{}
	for _, m := range w.members {
		side[m.id] = w.rng.IntN(2) == 0
	}
	one := w.rng.IntN(3) == 0
	for i, a := range w.members {
		for _, b := range w.members[:i] {
			if one && w.rng.IntN(3) == 0 || !one && side[a.id] != side[b.id] {
				w.cut[pair(a.id, b.id)] = true
			}
		}
	}
}

// hint tells a member, rightly or not, that its leader's process is gone.
func (w *World) hint() {
	if m := w.members[w.rng.IntN(len(w.members))]; m.alive() {
		m.core.PeerGone(m.core.Status().Leader)
	}
}

// change has the leader add, promote or remove a member, whatever it says to it.
func (w *World) change() {
	l := w.leader()
	if l == nil || l.blind {
		return
	}
	st := l.core.Status()
	var ch consensus.Change
	switch {
	case len(st.Learners) > 0 && w.rng.IntN(4) > 0:
		ch = consensus.Change{Kind: consensus.Promote, RaftID: st.Learners[w.rng.IntN(len(st.Learners))]}
	case len(st.Voters)+len(st.Learners) < 5:
		w.nextID++
		ch = consensus.Change{Kind: consensus.AddLearner, RaftID: w.nextID}
		w.members = append(w.members, newMember(w, w.nextID, nil, false))
	case len(st.Voters) > 3:
		ch = consensus.Change{Kind: consensus.Remove, RaftID: st.Voters[w.rng.IntN(len(st.Voters))]}
		if m := w.member(ch.RaftID); m != nil && m.blind {
			return
		}
	default:
		return
	}
	w.nextTx++
	w.Changes++
	nonce := binary.BigEndian.AppendUint64([]byte("nonce---"), w.nextTx)
	tx, err := proto.Marshal(&logv1.Transaction{})
	if err != nil {
		w.fail("encode a change: %v", err)
	}
	l.core.ProposeChange(ch, nonce, consensus.NewProposal(tx), w.clock)
}

// heal mends everything: from now on nothing fails.
func (w *World) heal() {
	clear(w.cut)
	for _, m := range w.members {
		m.stall = 0
		if !m.alive() {
			m.boot()
		}
	}
}
