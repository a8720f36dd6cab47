package taskstate

import (
	"testing"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"pgregory.net/rapid"
)

var chain = []State{
	New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running,
	Complete, Shutdown, Failed, Rejected, Remove, Orphaned,
}

func TestTheChainIsEveryStateInOrder(t *testing.T) {
	t.Parallel()
	if got, want := len(modelv1.TaskState_name), len(chain); got != want {
		t.Fatalf("the enum has %d states, the chain %d", got, want)
	}
	for i := 1; i < len(chain); i++ {
		if chain[i-1] >= chain[i] {
			t.Errorf("%s is not before %s", Name(chain[i-1]), Name(chain[i]))
		}
	}
}

func TestNamesParseBack(t *testing.T) {
	t.Parallel()
	for _, s := range chain {
		if got, ok := Parse(Name(s)); !ok || got != s {
			t.Errorf("Parse(%q) = %v, %v; want %v", Name(s), got, ok, s)
		}
	}
	for _, s := range []string{"", "unspecified", "walking"} {
		if got, ok := Parse(s); ok {
			t.Errorf("Parse(%q) = %v, want nothing", s, got)
		}
	}
}

func TestTerminalAndActiveNeverOverlap(t *testing.T) {
	t.Parallel()
	for _, s := range chain {
		if Terminal(s) && Active(s) {
			t.Errorf("%s is both terminal and active", Name(s))
		}
	}
	if Active(Pending) || !Active(Assigned) || !Active(Running) || Terminal(Running) || !Terminal(Complete) {
		t.Error("the bounds of active and terminal have moved")
	}
}

func status(t *rapid.T, label string) *modelv1.TaskStatus {
	if rapid.Bool().Draw(t, label+" absent") {
		return nil
	}
	return &modelv1.TaskStatus{
		State: rapid.SampledFrom(chain).Draw(t, label),
		Error: rapid.StringN(0, 3, 3).Draw(t, label+" error"),
	}
}

func TestJoinIsALattice(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := status(t, "a"), status(t, "b"), status(t, "c")
		if Join(a, a) != a {
			t.Error("join is not idempotent")
		}
		if got, want := Join(a, b).GetState(), max(a.GetState(), b.GetState()); got != want {
			t.Errorf("join = %v, want %v", got, want)
		}
		if Join(a, b).GetState() != Join(b, a).GetState() {
			t.Error("the joined state depends on the order")
		}
		if Join(Join(a, b), c) != Join(a, Join(b, c)) {
			t.Error("join is not associative")
		}
	})
}

func TestEqualStatesKeepTheEarlierWord(t *testing.T) {
	t.Parallel()
	first := &modelv1.TaskStatus{State: Failed, Error: "exit 1"}
	second := &modelv1.TaskStatus{State: Failed, Error: "exit 2"}
	if got := Join(first, second); got != first {
		t.Errorf("join = %v, want the earlier", got)
	}
}

func TestUnknownSinceIsTheNodesLoss(t *testing.T) {
	t.Parallel()
	lost := &modelv1.NodeStatus{LostSince: 7}
	for _, tt := range []struct {
		state  State
		status *modelv1.NodeStatus
		want   int64
	}{
		{Running, lost, 7}, {Assigned, lost, 7}, {Failed, lost, 0}, {Complete, lost, 0},
		{Running, &modelv1.NodeStatus{}, 0}, {Running, nil, 0},
	} {
		if got := UnknownSince(tt.state, tt.status); got != tt.want {
			t.Errorf("UnknownSince(%s, %v) = %d, want %d", Name(tt.state), tt.status, got, tt.want)
		}
	}
}
