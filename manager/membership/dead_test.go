package membership

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// tolerated is how many more of the voters heard may be lost.
func tolerated(voters []Voter) int {
	heard := 0
	for _, v := range voters {
		if v.Active {
			heard++
		}
	}
	return heard - (len(voters)/2 + 1)
}

func without(voters []Voter, raftID uint64) []Voter {
	return slices.DeleteFunc(slices.Clone(voters), func(v Voter) bool { return v.RaftID == raftID })
}

// TestWhoIsDeadIsTakenOutOnlyWhileThatIsSafe lives through any history of a group
// and holds every removal to what it must never do, and every refusal to a reason.
func TestWhoIsDeadIsTakenOutOnlyWhileThatIsSafe(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		after := rapid.IntRange(1, 6).Draw(t, "after")
		var voters []Voter
		for n := range rapid.IntRange(1, 9).Draw(t, "voters") {
			voters = append(voters, Voter{RaftID: uint64(n) + 1, Active: true})
		}
		v, silent := vigil{}, map[uint64]int{}
		for range rapid.IntRange(1, 40).Draw(t, "ticks") {
			for i := 1; i < len(voters); i++ { // the first is the leader
				voters[i].Active = rapid.IntRange(0, 3).Draw(t, "heard") == 0
			}
			for _, m := range voters {
				silent[m.RaftID]++
				if m.Active {
					silent[m.RaftID] = 0
				}
			}
			v.tick(voters)
			raftID, found := v.dead(voters, after)
			if !found {
				excused(t, voters, silent, after)
				continue
			}
			left := without(voters, raftID)
			switch {
			case silent[raftID] < after:
				t.Fatalf("%d is taken out after %d silent ticks of %d", raftID, silent[raftID], after)
			case len(left) != len(voters)-1 || len(left) < leastVoters:
				t.Fatalf("%d of %d voters remain", len(left), len(voters))
			case tolerated(left) < 0 || tolerated(left) < tolerated(voters):
				t.Fatalf("the group of %v tolerates %d more losses, that of %v %d", voters, tolerated(voters), left, tolerated(left))
			}
			voters = left
		}
	})
}

// excused fails unless there is a reason for leaving the dead where they are.
func excused(t *rapid.T, voters []Voter, silent map[uint64]int, after int) {
	dead := slices.ContainsFunc(voters, func(m Voter) bool { return silent[m.RaftID] >= after })
	if dead && len(voters) > leastVoters && tolerated(voters) >= 0 {
		t.Fatalf("nobody is taken out of %v, silent %v, allowed %d", voters, silent, after)
	}
}

func TestWhatTheGroupToleratesBeforeAndAfter(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		voters, heard int
		took          bool
		before, after int // losses that are tolerated
	}{
		{3, 2, false, 0, 0}, // two of two would be no better, and the third may return
		{4, 3, true, 0, 1},
		{5, 4, true, 1, 1},
		{5, 3, true, 0, 0}, // and then as 4, 3
		{5, 2, false, -1, -1},
		{7, 4, true, 0, 0},
	} {
		var voters []Voter
		for n := range tt.voters {
			voters = append(voters, Voter{RaftID: uint64(n) + 1, Active: n < tt.heard})
		}
		v := vigil{}
		v.tick(voters)
		raftID, took := v.dead(voters, 1)
		if took != tt.took || tolerated(voters) != tt.before {
			t.Errorf("%d of %d heard: took %v, tolerates %d; want %v and %d", tt.heard, tt.voters, took, tolerated(voters), tt.took, tt.before)
		}
		if after := tolerated(without(voters, raftID)); after != tt.after {
			t.Errorf("%d of %d heard: tolerates %d afterwards, want %d", tt.heard, tt.voters, after, tt.after)
		}
	}
}

// five is a world of five voters, of which the last is not heard.
func five(t *testing.T, removal time.Duration) *world {
	t.Helper()
	w := newWorld(t)
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
		Id: nodeN(9).Bytes(), Spec: &modelv1.ClusterSpec{DeadManagerRemoval: int64(removal)},
	}}})
	for n := byte(2); n <= 5; n++ {
		w.node(n, modelv1.Role_ROLE_MANAGER)
		w.do(putMember(&modelv1.Member{RaftId: uint64(n), Node: nodeN(n).Bytes(), Address: "10.0.0.2:2377", Voter: true}),
			putRole(nodeN(n).Bytes(), modelv1.Role_ROLE_MANAGER))
		w.group.voters = append(w.group.voters, Voter{RaftID: uint64(n), Active: n != 5})
	}
	return w
}

func TestADeadManagerIsTakenOutInItsTimeAndItsRecordSaysWhy(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := five(t, 10*time.Minute)
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan struct{})
		go func() { defer close(over); _ = w.Keep(ctx) }()
		time.Sleep(10*time.Minute - time.Second)
		synctest.Wait()
		w.change.Lock()
		if len(w.group.changes) != 0 {
			t.Errorf("changes before its time: %q", w.group.changes)
		}
		w.change.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		stop()
		<-over
		n := w.store.Snapshot().Node(nodeN(5))
		if w.store.Snapshot().Member(5) != nil || !slices.Equal(w.group.changes, []string{"remove"}) {
			t.Errorf("changes %q, want the dead member alone taken out", w.group.changes)
		}
		if n.GetRole() != modelv1.Role_ROLE_WORKER || n.GetSpec().GetRole() != modelv1.Role_ROLE_WORKER {
			t.Errorf("its node is %v and is to be %v, want a worker that does not come back as a manager", n.GetRole(), n.GetSpec().GetRole())
		}
		if !strings.Contains(n.GetRoleReason(), "had not heard it for 10m0s") {
			t.Errorf("reason %q, want for how long it was not heard", n.GetRoleReason())
		}
	})
}

func TestNobodyIsTakenOutUnlessTheOperatorWantsIt(t *testing.T) {
	t.Parallel()
	w := five(t, 0)
	for range 100_000 {
		w.vigil.tick(w.group.voters)
	}
	w.round(t.Context())
	if len(w.group.changes) != 0 {
		t.Errorf("changes %q, want none", w.group.changes)
	}
}

func TestANewTenureBeginsToCountAnew(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := five(t, time.Minute)
		for range 3 { // each leads for less than the time
			ctx, stop := context.WithTimeout(t.Context(), 59*time.Second)
			if err := w.Keep(ctx); err != nil {
				t.Error(err)
			}
			stop()
		}
		if len(w.group.changes) != 0 {
			t.Errorf("changes %q, want none", w.group.changes)
		}
	})
}

func TestAPromotionClearsTheReason(t *testing.T) {
	t.Parallel()
	w := five(t, time.Minute)
	why := putRole(nodeN(5).Bytes(), modelv1.Role_ROLE_WORKER)
	why.GetNodeRole().Reason = "because"
	w.do(why)
	if got := w.store.Snapshot().Node(nodeN(5)).GetRoleReason(); got != "because" {
		t.Errorf("reason %q, want what was said", got)
	}
	w.do(putRole(nodeN(5).Bytes(), modelv1.Role_ROLE_MANAGER))
	if got := w.store.Snapshot().Node(nodeN(5)).GetRoleReason(); got != "" {
		t.Errorf("reason %q of a manager, want none", got)
	}
}
