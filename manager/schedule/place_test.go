package schedule

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func nodeN(n int) id.ID { return id.ID{0: 1, 14: byte(n >> 8), 15: byte(n)} }

func ready(n int, change func(*Node)) Node {
	node := Node{ID: nodeN(n), Hostname: fmt.Sprint("dev", n), State: modelv1.NodeState_NODE_STATE_READY,
		Availability: modelv1.Availability_AVAILABILITY_ACTIVE}
	if change != nil {
		change(&node)
	}
	return node
}

func must(t interface{ Fatal(...any) }, template *modelv1.TaskTemplate, service id.ID) *Group {
	g, err := GroupOf(service, template)
	if err != nil {
		t.Fatal(err)
	}
	return &g
}

var web, db = id.ID{15: 1}, id.ID{15: 2}

func numbers(nodes []id.ID) []int {
	out := make([]int, len(nodes))
	for i, n := range nodes {
		out[i] = int(n[14])<<8 | int(n[15])
	}
	return out
}

func TestTheEmptiestNodeIsChosen(t *testing.T) {
	t.Parallel()
	zone := func(z string) func(*Node) {
		return func(n *Node) { n.Labels = map[string]string{"zone": z} }
	}
	for _, tt := range []struct {
		name     string
		nodes    []Node
		put      func(*Board)
		template *modelv1.TaskTemplate
		n        int
		want     []int
		reason   string
		tight    bool
	}{
		{name: "equal nodes in turn, by id", nodes: []Node{ready(2, nil), ready(1, nil)}, n: 3, want: []int{1, 2, 1}},
		{name: "the service's own tasks count before all tasks", nodes: []Node{ready(1, nil), ready(2, nil)}, n: 1, want: []int{2},
			put: func(b *Board) {
				b.Put(nodeN(1), web, Resources{}, true)
				b.Put(nodeN(2), db, Resources{}, true)
				b.Put(nodeN(2), db, Resources{}, true)
			}},
		{name: "then all tasks", nodes: []Node{ready(1, nil), ready(2, nil)}, n: 1, want: []int{2},
			put: func(b *Board) { b.Put(nodeN(1), db, Resources{}, true) }},
		{name: "a task that is being stopped does not count for the service", nodes: []Node{ready(1, nil), ready(2, nil)}, n: 1, want: []int{1},
			put: func(b *Board) {
				b.Put(nodeN(1), web, Resources{}, false)
				b.Put(nodeN(2), web, Resources{}, true)
			}},
		{name: "zones first, then nodes", n: 4, want: []int{1, 3, 2, 3},
			nodes:    []Node{ready(1, zone("a")), ready(2, zone("a")), ready(3, zone("b"))},
			template: &modelv1.TaskTemplate{Placement: &modelv1.Placement{Spread: []string{"node.labels.zone"}}}},
		{name: "what runs on a refused node counts for its zone", n: 1, want: []int{3},
			nodes: []Node{ready(1, zone("a")), ready(2, func(n *Node) {
				zone("a")(n)
				n.Availability = modelv1.Availability_AVAILABILITY_PAUSE
			}), ready(3, zone("b"))},
			put:      func(b *Board) { b.Put(nodeN(2), web, Resources{}, true) },
			template: &modelv1.TaskTemplate{Placement: &modelv1.Placement{Spread: []string{"node.labels.zone"}}}},
		{name: "a full zone is left for the other", n: 4, want: []int{1, 2, 2}, tight: true,
			reason: "no suitable node among 2 (2 have less than 10B of memory free)",
			nodes: []Node{ready(1, func(n *Node) { zone("a")(n); n.Capacity.MemoryBytes = 10 }),
				ready(2, func(n *Node) { zone("b")(n); n.Capacity.MemoryBytes = 25 })},
			template: &modelv1.TaskTemplate{Reservations: &modelv1.Resources{MemoryBytes: 10},
				Placement: &modelv1.Placement{Spread: []string{"node.labels.zone"}}}},
		{name: "a stopping task holds its reservation", n: 1, tight: true, reason: "no suitable node among 1 (1 has less than 0.000000005 CPUs free)",
			nodes:    []Node{ready(1, func(n *Node) { n.Capacity.NanoCPUs = 10 })},
			put:      func(b *Board) { b.Put(nodeN(1), web, Resources{NanoCPUs: 6}, false) },
			template: &modelv1.TaskTemplate{Reservations: &modelv1.Resources{NanoCpus: 5}}},
		{name: "replicas per node", n: 3, want: []int{1, 2}, tight: true, reason: "no suitable node among 2 (2 hold its one replica already)",
			nodes:    []Node{ready(1, nil), ready(2, nil)},
			template: &modelv1.TaskTemplate{Placement: &modelv1.Placement{MaxReplicasPerNode: 1}}},
		{name: "a node that swallows tasks is the last choice", n: 1, want: []int{2}, nodes: []Node{ready(1, nil), ready(2, nil)},
			put: func(b *Board) {
				for range troubleLimit {
					b.Trouble(nodeN(1), web)
				}
				b.Put(nodeN(2), web, Resources{}, true)
			}},
		{name: "an empty cluster says so", n: 1, reason: "no suitable node: the cluster has none"},
		{name: "every filter is counted", n: 1,
			nodes: []Node{
				ready(1, func(n *Node) { n.State = modelv1.NodeState_NODE_STATE_DOWN }),
				ready(2, func(n *Node) { n.State = modelv1.NodeState_NODE_STATE_UNKNOWN }),
				ready(3, func(n *Node) { n.Availability = modelv1.Availability_AVAILABILITY_DRAIN }),
				ready(4, func(n *Node) { n.Availability = modelv1.Availability_AVAILABILITY_PAUSE }),
				ready(5, nil), ready(6, nil),
			},
			reason:   "no suitable node among 6 (1 is down, 1 is not heard, 1 is paused, 1 is drained, 2 do not satisfy node.role==manager)",
			template: &modelv1.TaskTemplate{Placement: &modelv1.Placement{Constraints: []string{"node.role==manager"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := NewBoard(tt.nodes)
			if tt.put != nil {
				tt.put(b)
			}
			out := b.Place(must(t, tt.template, web), tt.n)
			if got := numbers(out.Nodes); !slices.Equal(got, tt.want) {
				t.Errorf("placed on %v, want %v", got, tt.want)
			}
			if out.Reason != tt.reason || out.Tight != tt.tight {
				t.Errorf("reason %q, tight %t; want %q, %t", out.Reason, out.Tight, tt.reason, tt.tight)
			}
		})
	}
}

func TestPlaceOnAsksTheSameFilters(t *testing.T) {
	t.Parallel()
	b := NewBoard([]Node{ready(1, func(n *Node) { n.Capacity.MemoryBytes = 10 })})
	g := must(t, &modelv1.TaskTemplate{Reservations: &modelv1.Resources{MemoryBytes: 6}}, web)
	if out := b.PlaceOn(g, nodeN(1)); len(out.Nodes) != 1 {
		t.Errorf("first: %+v", out)
	}
	if out := b.PlaceOn(g, nodeN(1)); len(out.Nodes) != 0 || !out.Tight || out.Reason == "" {
		t.Errorf("second: %+v", out)
	}
	if out := b.PlaceOn(g, nodeN(2)); len(out.Nodes) != 0 || out.Reason == "" {
		t.Errorf("on no node: %+v", out)
	}
}

// TestPlacementsKeepTheirPromises holds Place to what must be true of every board:
// no refused node is chosen, no node is overcommitted, no task is left over while
// a node would take it, the spread is even, and the answer is the same again.
func TestPlacementsKeepTheirPromises(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var nodes []Node
		for n := range rapid.IntRange(0, 12).Draw(t, "nodes") {
			nodes = append(nodes, ready(n, func(n *Node) {
				n.State = rapid.SampledFrom([]modelv1.NodeState{modelv1.NodeState_NODE_STATE_READY, modelv1.NodeState_NODE_STATE_READY, modelv1.NodeState_NODE_STATE_DOWN}).Draw(t, "state")
				n.Availability = modelv1.Availability(rapid.IntRange(0, 3).Draw(t, "availability"))
				n.Labels = map[string]string{"zone": rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")}
				n.Capacity.MemoryBytes = int64(rapid.IntRange(0, 8).Draw(t, "memory"))
			}))
		}
		template := &modelv1.TaskTemplate{
			Reservations: &modelv1.Resources{MemoryBytes: int64(rapid.IntRange(0, 3).Draw(t, "reserve"))},
			Placement:    &modelv1.Placement{MaxReplicasPerNode: uint64(rapid.IntRange(0, 3).Draw(t, "max"))},
		}
		if rapid.Bool().Draw(t, "constrained") {
			template.Placement.Constraints = []string{"node.labels.zone!=b"}
		}
		if rapid.Bool().Draw(t, "spread") {
			template.Placement.Spread = []string{"node.labels.zone"}
		}
		g := must(t, template, web)
		put := rapid.SliceOfN(rapid.IntRange(0, 12), 0, 10).Draw(t, "put")
		board := func() *Board {
			b := NewBoard(nodes)
			for i, n := range put {
				b.Put(nodeN(n), []id.ID{web, db}[i%2], Resources{MemoryBytes: 1}, i%3 != 0)
			}
			return b
		}
		n := rapid.IntRange(0, 30).Draw(t, "tasks")
		b := board()
		out := b.Place(g, n)
		if again := board().Place(g, n); !slices.Equal(again.Nodes, out.Nodes) || again.Reason != out.Reason {
			t.Errorf("the same board again: %+v, first %+v", again, out)
		}
		if (len(out.Nodes) < n) != (out.Reason != "") || len(out.Nodes) > n {
			t.Errorf("%d of %d placed, reason %q", len(out.Nodes), n, out.Reason)
		}
		before := board()
		for _, x := range out.Nodes {
			if why := before.byID[x].refuses(g); why.kind != suits {
				t.Errorf("node %v was chosen, which is refused: %+v", x, why)
			}
			before.byID[x].hold(g) // fails the next time round if it is full
		}
		for _, s := range b.seats {
			if why := s.refuses(g); len(out.Nodes) < n && why.kind == suits {
				t.Errorf("node %v would take another, and one was left over", s.ID)
			}
			if g.Reserve.MemoryBytes > 0 && slices.Contains(out.Nodes, s.ID) && s.used.MemoryBytes > s.Capacity.MemoryBytes {
				t.Errorf("node %v is overcommitted: %+v", s.ID, s.used)
			}
		}
	})
}

// BenchmarkPlace places 10,000 tasks on 100 nodes, spread over 5 zones.
func BenchmarkPlace(b *testing.B) {
	var nodes []Node
	for n := range 100 {
		nodes = append(nodes, ready(n, func(node *Node) {
			node.Labels = map[string]string{"zone": fmt.Sprint(n % 5)}
			node.Capacity = Resources{NanoCPUs: 1e12, MemoryBytes: 1e12}
		}))
	}
	g := must(b, &modelv1.TaskTemplate{Reservations: &modelv1.Resources{MemoryBytes: 1e6},
		Placement: &modelv1.Placement{Constraints: []string{"node.role!=manager"}, Spread: []string{"node.labels.zone"}}}, web)
	b.ReportAllocs()
	for b.Loop() {
		if out := NewBoard(nodes).Place(g, 10_000); len(out.Nodes) != 10_000 {
			b.Fatal(out.Reason)
		}
	}
}

// BenchmarkPlaceOnMany places as many tasks as before on more and more nodes.
func BenchmarkPlaceOnMany(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000} {
		b.Run(fmt.Sprintf("nodes=%d", n), func(b *testing.B) {
			nodes := make([]Node, n)
			for i := range nodes {
				nodes[i] = ready(i, func(node *Node) { node.Capacity = Resources{NanoCPUs: 1e12, MemoryBytes: 1e12} })
			}
			g := must(b, &modelv1.TaskTemplate{Reservations: &modelv1.Resources{MemoryBytes: 1e6}}, web)
			b.ReportAllocs()
			for b.Loop() {
				if out := NewBoard(nodes).Place(g, 10_000); len(out.Nodes) != 10_000 {
					b.Fatal(out.Reason)
				}
			}
		})
	}
}
