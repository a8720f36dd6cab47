package reconcile

import (
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// A batch is parcels and the service each belongs to.
type batch struct {
	parcels []store.Parcel
	owners  []id.ID
	units   int // that the parcels are
}

func (b *batch) add(service id.ID, expects []*logv1.Expect, ops []*logv1.Operation) {
	b.put(service, store.Parcel{Unit: &logv1.Unit{Expects: expects, Operations: ops}})
}

func (b *batch) put(service id.ID, p store.Parcel) {
	b.parcels = append(b.parcels, p)
	b.owners = append(b.owners, service)
	b.units += p.Units()
}

// pageMoves is how many moves a page of a ledger holds. Small pages are on their
// way to the agents while the next are still applied; what they say once for all
// of their moves wants large ones.
const pageMoves = 2_000

// A ledger is the moves of one service.
type ledger struct {
	service id.ID
	version uint64 // of the service
	pages   []*logv1.Moves
	nodes   map[id.ID]uint32 // as the open page counts them
}

// open returns the page that the next move goes to.
func (l *ledger) open() *logv1.Moves {
	if n := len(l.pages); n > 0 && len(l.pages[n-1].GetMoves()) < pageMoves {
		return l.pages[n-1]
	}
	p := &logv1.Moves{Service: l.service.Bytes(), Version: l.version}
	l.pages, l.nodes = append(l.pages, p), make(map[id.ID]uint32)
	return p
}

// ground returns what the next move calls the node, which has the version.
func (l *ledger) ground(node id.ID, version uint64) uint32 {
	p := l.open()
	n, ok := l.nodes[node]
	if !ok {
		p.Nodes = append(p.Nodes, &logv1.Ground{Node: node.Bytes(), Version: version})
		n = uint32(len(p.GetNodes())) // at most one for each move
		l.nodes[node] = n
	}
	return n
}

// add notes a move.
func (l *ledger) add(m *logv1.Move) {
	p := l.open()
	p.Moves = append(p.Moves, m)
}
