package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/manager/consensus"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/proto"
)

// load writes and reads as clients do: mostly at a leader, sometimes elsewhere.
func (w *World) load() {
	for range w.rng.IntN(3) {
		m := w.members[w.rng.IntN(len(w.members))]
		if l := w.leader(); l != nil && w.rng.Float64() < 0.8 {
			m = l
		}
		if !m.alive() || m.blind {
			continue
		}
		w.nextTx++
		p := consensus.NewProposal(w.transaction(w.nextTx))
		w.writes = append(w.writes, &write{tx: w.nextTx, member: m, life: m.life, p: p})
		m.core.Propose(p)
	}
	if w.rng.Float64() < 0.2 {
		if m := w.members[w.rng.IntN(len(w.members))]; m.alive() {
			r := consensus.NewRead()
			w.reads = append(w.reads, &read{floor: w.acked, member: m, life: m.life, r: r})
			m.core.ReadIndex(r)
		}
	}
}

// transaction takes a claim: its own, or one that others want too.
func (w *World) transaction(n uint64) []byte {
	key := fmt.Sprint(n)
	if n%4 == 0 {
		key = fmt.Sprint("contended ", n%64)
	}
	request := make([]byte, 16)
	binary.BigEndian.PutUint64(request, n)
	data, err := proto.Marshal(&logv1.Transaction{
		Request: &logv1.Request{Caller: "sim", Id: request, Hash: make([]byte, 32)},
		Units: []*logv1.Unit{{Operations: []*logv1.Operation{
			{Op: &logv1.Operation_Claim{Claim: &modelv1.Claim{Kind: "sim", Key: key, Owner: request}}},
		}}},
	})
	if err != nil {
		w.fail("encode a transaction: %v", err)
	}
	return data
}

// applied notes an entry that a member was given, and holds it against what
// others were given at the same index.
func (w *World) applied(index uint64, sum [32]byte, txs [][]byte) {
	if known, ok := w.entries[index]; ok {
		if known != sum {
			w.fail("two members were given different entries at index %d", index)
		}
		return
	}
	w.entries[index] = sum
	for _, data := range txs {
		tx := &logv1.Transaction{}
		if err := proto.Unmarshal(data, tx); err != nil || tx.GetRequest() == nil {
			continue // a change of membership
		}
		n := binary.BigEndian.Uint64(tx.GetRequest().GetId())
		if at, twice := w.found[n]; twice {
			w.fail("write %d is in entries %d and %d", n, at, index)
		}
		w.found[n] = index
	}
}

// collect looks at the ends of writes and reads.
func (w *World) collect() {
	w.writes = slices.DeleteFunc(w.writes, func(x *write) bool {
		select {
		case res := <-x.p.Done():
			w.ended(x, res)
			return true
		default:
			if x.member.life != x.life || !x.member.alive() {
				w.Unknown++
				return true
			}
			return false
		}
	})
	w.reads = slices.DeleteFunc(w.reads, func(x *read) bool {
		select {
		case res := <-x.r.Done():
			if res.Err == nil && res.Index < x.floor {
				w.fail("a read of member %d got index %d, but %d was acknowledged before", x.member.id, res.Index, x.floor)
			}
			w.Read++
			return true
		default:
			return x.member.life != x.life || !x.member.alive()
		}
	})
}

func (w *World) ended(x *write, res consensus.Result) {
	at, there := w.found[x.tx]
	switch {
	case res.Err == nil, errdefs.IsConflict(res.Err):
		if !there || at != res.Index {
			w.fail("write %d was answered from entry %d, it is at %d", x.tx, res.Index, at)
		}
		w.acked = max(w.acked, res.Index)
		if res.Err == nil {
			w.Acked++
		} else {
			w.Conflicted++
		}
	case errors.Is(res.Err, consensus.ErrUnknown):
		w.Unknown++
	default:
		if there {
			w.fail("write %d was refused (%v) and is in entry %d", x.tx, res.Err, at)
		}
		w.found[x.tx] = 0 // from now on it must not be found
		w.Refused++
	}
}

// checkEnds holds the settled world against the rules.
func (w *World) checkEnds() {
	if w.Acked == 0 {
		w.fail("nothing was ever acknowledged")
	}
	if l := w.leader(); l != nil && !l.blind {
		for _, m := range w.members {
			if m.alive() && !m.blind && m.applier.Index() == l.applier.Index() {
				w.state(m.applier.Index(), m.machine.Store)
			}
		}
	}
	for _, x := range w.writes {
		if x.member.alive() && x.member.life == x.life && w.now > w.opt.Steps+200 && x.member.core.Status().Member {
			if at, there := w.found[x.tx]; there {
				w.fail("write %d is in entry %d and member %d never said so", x.tx, at, x.member.id)
			}
		}
	}
}
