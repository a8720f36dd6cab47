package manager

import (
	"context"
	"strconv"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/consensus"
	"github.com/skep-project/skep/manager/control/events"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// heraldBeat is how often the leader looks who answers it; what it sees twice it
// believes.
const heraldBeat = time.Second

// herald tells those who watch events, for a tenure, what no object shows: that
// another leads now, and which managers this leader hears. It writes it into the
// log, so every manager tells it at the same index. What cannot be written is
// tried again at the next beat.
func (m *Manager) herald(ctx context.Context) error {
	news := []*logv1.Note{m.accession()}
	h := &hearing{gone: make(map[uint64]bool), doubt: make(map[uint64]bool), was: m.wasUnreachable}
	t := time.NewTicker(heraldBeat)
	defer t.Stop()
	for {
		for len(news) > 0 && m.tell(ctx, news[0]) == nil {
			news = news[1:]
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for _, raftID := range h.turned(m.raft.Status()) {
			note := &logv1.Note{Type: events.TypeNode, Action: events.Reachable, Node: m.nodeBytes(raftID), Reason: "its manager is heard again"}
			if h.gone[raftID] {
				note.Action, note.Reason = events.Unreachable, "its manager does not answer the leader"
			}
			news = append(news, note)
		}
		news = news[max(0, len(news)-maxNews):]
	}
}

// maxNews bounds what waits to be written; the oldest is dropped.
const maxNews = 100

func (m *Manager) tell(ctx context.Context, n *logv1.Note) error {
	return m.commitUnits(ctx, []*logv1.Unit{{Operations: []*logv1.Operation{{Op: &logv1.Operation_Note{Note: n}}}}})
}

// accession is what is told of a new leader.
func (m *Manager) accession() *logv1.Note {
	s := m.raft.Status()
	n := &logv1.Note{
		Type: events.TypeNode, Action: events.Leader, Node: m.cfg.Node.Bytes(),
		Attributes: map[string]string{"term": strconv.FormatUint(s.Term, 10)},
	}
	former := m.reign.before(s.RaftID)
	if s.HandedBy != 0 {
		former = s.HandedBy
	}
	name := m.hostOf(former)
	switch {
	case former == 0 || former == s.RaftID || name == "":
		return n
	case s.HandedBy == 0:
		n.Reason = name + " was not heard any more"
	case s.HandedWhy == "":
		n.Reason = name + " handed leadership over"
	default:
		n.Reason = name + " handed leadership over: " + s.HandedWhy
	}
	n.Attributes["leader.old"], n.Attributes["leader.new"] = name, m.hostOf(s.RaftID)
	return n
}

// hostOf is the name of a member's host; "" if it is not known.
func (m *Manager) hostOf(raftID uint64) string {
	node, err := id.FromBytes(m.nodeBytes(raftID))
	if err != nil || node.IsZero() {
		return ""
	}
	return hostname(m.store.Snapshot().Node(node), node)
}

func (m *Manager) nodeBytes(raftID uint64) []byte { return m.store.Snapshot().Member(raftID).GetNode() }

// wasUnreachable reports whether a member was last told of as unreachable.
func (m *Manager) wasUnreachable(raftID uint64) bool {
	node, err := id.FromBytes(m.nodeBytes(raftID))
	return err == nil && m.chronicle.Last(node, events.Reachable, events.Unreachable) == events.Unreachable
}

// hearing is whom a leader hears. It belongs to one goroutine.
type hearing struct {
	// gone holds every member that is there; true: it does not answer.
	gone map[uint64]bool
	// doubt holds those that were seen otherwise at the last look.
	doubt map[uint64]bool
	// was says what a former leader told last of a member.
	was func(raftID uint64) bool
}

// turned returns the members that two looks in a row have shown to be otherwise
// than told.
func (h *hearing) turned(s consensus.Status) (turned []uint64) {
	members := make(map[uint64]bool)
	for _, raftID := range append(s.Voters[:len(s.Voters):len(s.Voters)], s.Learners...) {
		if raftID == s.RaftID {
			continue
		}
		members[raftID] = true
		if _, known := h.gone[raftID]; !known {
			h.gone[raftID] = h.was(raftID)
		}
		switch gone := !s.Progress[raftID].Active; {
		case gone == h.gone[raftID]:
			delete(h.doubt, raftID)
		case !h.doubt[raftID]:
			h.doubt[raftID] = true
		default:
			delete(h.doubt, raftID)
			h.gone[raftID] = gone
			turned = append(turned, raftID)
		}
	}
	for raftID := range h.gone {
		if !members[raftID] {
			delete(h.gone, raftID)
			delete(h.doubt, raftID)
		}
	}
	return turned
}
