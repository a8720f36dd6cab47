package manager

import (
	"sync"
	"time"

	"github.com/skep-project/skep/manager/consensus"
)

// missing remembers since when this manager does not hear others. The zero value
// misses nobody.
type missing struct {
	mu    sync.Mutex // guards the field below; held for memory only
	since map[uint64]time.Time
}

// notice keeps missing true while nobody asks.
func (m *Manager) notice(s consensus.Status) {
	o := office{m}
	for _, v := range s.Voters {
		m.missing.at(v, v == s.RaftID || o.answers(v))
	}
}

// at returns since when a member is missed; zero if it answers now.
func (g *missing) at(raftID uint64, answers bool) time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if answers {
		delete(g.since, raftID)
		return time.Time{}
	}
	if g.since == nil {
		g.since = make(map[uint64]time.Time)
	}
	if _, known := g.since[raftID]; !known {
		g.since[raftID] = time.Now()
	}
	return g.since[raftID]
}

// missed is a member that does not answer, as a person knows it, and since when.
func (o office) missed(raftID uint64) (name string, since time.Time) {
	return o.memberName(raftID), o.missing.at(raftID, false)
}
