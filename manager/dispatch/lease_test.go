package dispatch

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	ready   = modelv1.NodeState_NODE_STATE_READY
	unknown = modelv1.NodeState_NODE_STATE_UNKNOWN
	down    = modelv1.NodeState_NODE_STATE_DOWN
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// nodeN is a node's id that is easy to tell from others.
func nodeN(n byte) id.ID { return id.ID{15: n} }

func word(n byte, session uint64) heard {
	return heard{node: nodeN(n), boot: []byte("boot-1"), session: session, address: "10.0.0.1"}
}

func leasesOf(nodes byte) *leases {
	l := newLeases(10*time.Second, true)
	for n := byte(1); n <= nodes; n++ {
		l.adopt(nodeN(n), nil)
	}
	return l
}

func (l *leases) state(n byte) modelv1.NodeState { return l.nodes[nodeN(n)].status.GetState() }

func (l *leases) live1(n int, now time.Time) {
	for range n {
		l.tick(now)
	}
}

func TestANodeHeardIsReadyAndOneUnheardIsDownAfterItsLease(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	if !l.hear(word(1, 1), epoch) || l.state(1) != ready {
		t.Fatalf("state after a beat = %v, want READY", l.state(1))
	}
	l.live1(ticks(10*time.Second)/2-1, epoch)
	if l.state(1) != ready {
		t.Errorf("state before half a lease = %v, want READY", l.state(1))
	}
	l.live1(1, epoch)
	if l.state(1) != unknown {
		t.Errorf("state after half a lease = %v, want UNKNOWN", l.state(1))
	}
	l.live1(ticks(10*time.Second)/2-1, epoch)
	if l.state(1) != unknown {
		t.Errorf("state one tick before the lease's end = %v, want UNKNOWN", l.state(1))
	}
	l.live1(1, epoch)
	if s := l.nodes[nodeN(1)].status; s.GetState() != down || s.GetLostSince() == 0 {
		t.Errorf("status after the lease = %v, want DOWN and since when it was lost", s)
	}
	if !l.hear(word(1, 2), epoch) || l.state(1) != ready {
		t.Errorf("state after it is back = %v, want READY", l.state(1))
	}
}

func TestABrokenSessionIsNotADeadHost(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	l.hear(word(1, 1), epoch)
	end := word(1, 1)
	end.ended = true
	l.hear(end, epoch)
	if l.state(1) != unknown {
		t.Fatalf("state of a broken session = %v, want UNKNOWN at once", l.state(1))
	}
	l.live1(ticks(10*time.Second)-1, epoch)
	if l.state(1) != unknown {
		t.Errorf("state within the lease = %v, want UNKNOWN", l.state(1))
	}
	if l.hear(word(1, 1), epoch) {
		t.Error("a late beat of the ended session counted")
	}
	if !l.hear(word(1, 2), epoch) || l.state(1) != ready {
		t.Errorf("state with a new session = %v, want READY", l.state(1))
	}
}

// TestADownNodeSaysForHowLongItWasNotHeard, whatever was said of it while it was
// Unknown.
func TestADownNodeSaysForHowLongItWasNotHeard(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		ended bool
		says  modelv1.Farewell
		want  string
	}{
		{"its session broke", true, 0, "no beat for 10s since 2026-01-02T03:04:05Z"},
		{"its session hangs", false, 0, "no beat for 10s since 2026-01-02T03:04:05Z"},
		{"its daemon did not come back", true, modelv1.Farewell_FAREWELL_RESTARTING,
			"no beat for 1m0s since 2026-01-02T03:04:05Z, when its daemon said that it restarts"},
	} {
		l, now := leasesOf(1), epoch
		l.hear(word(1, 1), now)
		if tt.ended {
			end := word(1, 1)
			end.ended, end.farewell = true, tt.says
			l.hear(end, now)
		}
		for l.state(1) != down {
			now = now.Add(leaseTick)
			l.tick(now)
		}
		if got := l.nodes[nodeN(1)].status.GetMessage(); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestWhatADaemonSaysBeforeItStopsIsBelieved(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		says  modelv1.Farewell
		after time.Duration
		want  modelv1.NodeState
	}{
		{"a restarting daemon has more than its lease", modelv1.Farewell_FAREWELL_RESTARTING, 50 * time.Second, unknown},
		{"but not for ever", modelv1.Farewell_FAREWELL_RESTARTING, 60 * time.Second, down},
		{"a host that goes down is down at once", modelv1.Farewell_FAREWELL_HOST_DOWN, 0, down},
		{"a node that leaves is down at once", modelv1.Farewell_FAREWELL_LEAVING, 0, down},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := leasesOf(1)
			l.hear(word(1, 1), epoch)
			end := word(1, 1)
			end.ended, end.farewell = true, tt.says
			l.hear(end, epoch)
			l.live1(int(tt.after/leaseTick), epoch)
			if got := l.state(1); got != tt.want {
				t.Errorf("state %v after it said %v = %v, want %v", tt.after, tt.says, got, tt.want)
			}
		})
	}
}

func TestAnOlderSessionIsNoNews(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	l.hear(word(1, 7), epoch)
	end := word(1, 6)
	end.ended = true
	if l.hear(end, epoch) || l.state(1) != ready {
		t.Errorf("the end of an older session made the node %v, want READY still", l.state(1))
	}
	reborn := word(1, 1)
	reborn.boot = []byte("boot-2")
	if !l.hear(reborn, epoch) {
		t.Error("a node that lost its journal with its host was not heard")
	}
}

// TestAHostsRebootIsRemembered: whatever is told of the node afterwards.
func TestAHostsRebootIsRemembered(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	at := func() int64 { return l.nodes[nodeN(1)].status.GetRebootedAt() }
	l.hear(word(1, 1), epoch)
	if at() != 0 {
		t.Errorf("a node that was first heard is said to have rebooted at %d", at())
	}
	again := word(1, 2)
	again.boot = []byte("boot-2")
	l.hear(again, epoch)
	again.session, again.address = 3, "10.0.0.2" // the daemon is started again
	l.hear(again, epoch.Add(time.Minute))
	again.ended = true
	l.hear(again, epoch.Add(2*time.Minute))
	for range l.full {
		l.tick(epoch.Add(3 * time.Minute))
	}
	if s := l.nodes[nodeN(1)].status; at() != epoch.UnixNano() || s.GetState() != modelv1.NodeState_NODE_STATE_DOWN {
		t.Errorf("rebooted at %d, want %d, of a node that is down by now: %v", at(), epoch.UnixNano(), s)
	}
}

func TestAMachineThatComesBackAfterItsRebootIsAClone(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	from := func(boot string, session uint64) string {
		h := word(1, session)
		h.boot = []byte(boot)
		l.hear(h, epoch)
		return l.nodes[nodeN(1)].status.GetMessage()
	}
	from("boot-1", 1)
	if said := from("boot-2", 2); said != "" {
		t.Errorf("a host that rebooted is called %q, want nothing", said)
	}
	said := from("boot-1", 3)
	if !strings.Contains(said, "clone") {
		t.Errorf("a boot id that came back is called %q, want a clone", said)
	}
	if again := from("boot-2", 4); again != said {
		t.Errorf("heard the other way round they are called %q, want the same: it is no news", again)
	}
}

// twins is a node that two machines have taken turns with; "boot-1" is heard now.
func twins(l *leases) *lease {
	for i, m := range []struct{ boot, address string }{{"boot-1", "10.0.0.1:9"}, {"boot-2", "10.0.0.2:9"}, {"boot-1", "10.0.0.1:9"}} {
		h := word(1, uint64(i+1))
		h.boot, h.address = []byte(m.boot), m.address
		l.hear(h, epoch)
	}
	return l.nodes[nodeN(1)]
}

// beats has "boot-1" be heard for a time.
func beats(l *leases, d time.Duration) {
	for range ticks(d) {
		l.tick(epoch)
		h := word(1, 3)
		h.boot, h.address = []byte("boot-1"), "10.0.0.1:9"
		l.hear(h, epoch)
	}
}

func TestTwoLiveHoldersOfAnIdentityAreBothNamed(t *testing.T) {
	t.Parallel()
	s := twins(leasesOf(1)).status
	if string(s.GetTwinBoot()) != "boot-2" || s.GetTwinAddress() != "10.0.0.2:9" {
		t.Errorf("the other is %q at %s", s.GetTwinBoot(), s.GetTwinAddress())
	}
	for _, name := range []string{"10.0.0.1 (boot ", "10.0.0.2 (boot "} {
		if !strings.Contains(s.GetMessage(), name) {
			t.Errorf("%q does not name %q", s.GetMessage(), name)
		}
	}
}

// TestACloneThatIsGoneIsForgotten, by the leader that found it and by the next one:
// nobody is locked out for ever.
func TestACloneThatIsGoneIsForgotten(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	n := twins(l)
	beats(l, 9*time.Minute)
	if len(n.status.GetTwinBoot()) == 0 {
		t.Fatal("it was forgotten after nine minutes")
	}
	next := newLeases(10*time.Second, true)
	next.adopt(nodeN(1), n.status)
	beats(next, 9*time.Minute)
	if s := next.nodes[nodeN(1)].status; string(s.GetTwinBoot()) != "boot-2" {
		t.Errorf("the next leader knows of %q, want boot-2 for ten minutes of its own", s.GetTwinBoot())
	}
	for name, l := range map[string]*leases{"the first leader": l, "the next": next} {
		beats(l, 2*time.Minute)
		if s := l.nodes[nodeN(1)].status; len(s.GetTwinBoot()) > 0 || s.GetTwinAddress() != "" || s.GetMessage() != "" {
			t.Errorf("%s: after eleven minutes the status is %v", name, s)
		}
	}
}

// TestAnOldWordOfAFormerBootIsNoNews: a manager that has not noticed that a host died
// tells a new leader of its last session. It is neither heard as the node's own nor
// taken for another machine.
func TestAnOldWordOfAFormerBootIsNoNews(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	old, now := word(1, 7), word(1, 8)
	now.boot = []byte("boot-2")
	l.hear(old, epoch)
	l.live1(8, epoch)
	l.hear(now, epoch)
	l.live1(4, epoch)
	old.age = 3 * time.Second // it spoke before its host died, a second before the reboot was heard of
	for range 3 {
		if l.hear(old, epoch) {
			t.Fatal("a word from before the reboot counted")
		}
		l.hear(now, epoch)
	}
	// To a leader that has just begun, too: it has heard nobody yet.
	status := l.nodes[nodeN(1)].status
	l = newLeases(10*time.Second, true)
	l.adopt(nodeN(1), status)
	if l.hear(old, epoch) {
		t.Error("a word from before the reboot counted at a new leader")
	}
	if s := l.nodes[nodeN(1)].status; len(s.GetTwinBoot()) > 0 || string(s.GetBoot()) != "boot-2" {
		t.Errorf("the node is %v", s)
	}
	// Whose journal was lost begins to count anew, and speaks after the present one.
	lost := word(1, 1)
	lost.boot = []byte("boot-3")
	l.live1(1, epoch)
	if !l.hear(lost, epoch) || string(l.nodes[nodeN(1)].status.GetBoot()) != "boot-3" {
		t.Error("a host that lost its journal is not heard")
	}
}

func TestMostNodesVanishingAtOnceAreGivenOneMoreLease(t *testing.T) {
	t.Parallel()
	l := leasesOf(4)
	for n := byte(1); n <= 4; n++ {
		l.hear(word(n, 1), epoch)
	}
	full := ticks(10 * time.Second)
	for range full {
		l.tick(epoch)
		l.hear(word(4, 1), epoch)
	}
	if l.state(1) == down {
		t.Fatal("three of four nodes were declared Down together without the second lease")
	}
	for range full {
		l.tick(epoch)
		l.hear(word(4, 1), epoch)
	}
	if l.state(1) != down || l.state(4) != ready {
		t.Errorf("states after the second lease = %v, %v, want DOWN and READY", l.state(1), l.state(4))
	}
}

func TestATickLooksAtNobodyBeforeSomebodyMayBeDue(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	l.hear(word(1, 1), epoch)
	looked := 0
	for range ticks(time.Minute) {
		next := l.next
		l.tick(epoch)
		if l.next != next {
			looked++
		}
		l.hear(word(1, 1), epoch)
	}
	if want := 1 + ticks(time.Minute)/(ticks(10*time.Second)/2-1); looked > want {
		t.Errorf("it looked %d times in a minute, want %d at most", looked, want)
	}
}

// TestNoNodeIsDownBeforeItsLeaseNorReadyForLongAfterItsWord holds the core to its
// invariant under any order of beats, young and old, ends and ticks, and to looking
// in time though it looks at nobody between.
func TestNoNodeIsDownBeforeItsLeaseNorReadyForLongAfterItsWord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := leasesOf(3)
		silent := map[byte]int{}
		said := map[byte]bool{}
		session := map[byte]uint64{}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			n := rapid.ByteRange(1, 3).Draw(t, "node")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0:
				session[n]++
				h, old := word(n, session[n]), rapid.IntRange(0, 30).Draw(t, "age")
				h.age = time.Duration(old) * leaseTick
				if l.hear(h, epoch) {
					silent[n], said[n] = old, false
				}
			case 1:
				h := word(n, session[n])
				h.ended = true
				if rapid.Bool().Draw(t, "leaving") {
					h.farewell = modelv1.Farewell_FAREWELL_LEAVING
				}
				if l.hear(h, epoch) && h.farewell != 0 {
					said[n] = true
				}
			default:
				for m := range l.nodes {
					silent[m[15]]++
				}
				l.tick(epoch)
				for m := byte(1); m <= 3; m++ {
					if l.state(m) == ready && silent[m] >= ticks(10*time.Second)/2 {
						t.Fatalf("node %d is Ready after %d ticks of silence", m, silent[m])
					}
					if s := l.state(m); s != down && silent[m] >= 2*ticks(10*time.Second) {
						t.Fatalf("node %d is %v after %d ticks of silence", m, s, silent[m])
					}
				}
			}
			for m := byte(1); m <= 3; m++ {
				if l.state(m) == down && silent[m] < ticks(10*time.Second) && !said[m] {
					t.Fatalf("node %d is Down after %d ticks of silence", m, silent[m])
				}
			}
		}
	})
}

// TestWhatAHandshakeShowedStaysKnown: of the newest session, while it lasts, when it
// is doubted, broken and lost; and that of a session that takes its place.
func TestWhatAHandshakeShowedStaysKnown(t *testing.T) {
	t.Parallel()
	l := leasesOf(1)
	h := word(1, 1)
	h.shown = 4
	shows := func(when string, want uint64) {
		t.Helper()
		if got := l.nodes[nodeN(1)].status.GetShown(); got != want {
			t.Errorf("%s: generation %d, want %d", when, got, want)
		}
	}
	l.hear(h, epoch)
	shows("heard", 4)
	next := word(1, 2)
	next.shown = 5
	l.hear(next, epoch)
	shows("another session", 5)
	next.shown = 4 // the one before goes on under its number
	l.hear(next, epoch)
	shows("the former session", 4)
	l.live1(ticks(10*time.Second)-1, epoch)
	shows("doubted", 4)
	l.live1(2, epoch)
	shows("lost", 4)
	next.ended = true
	l.hear(next, epoch)
	shows("broken", 4)
}
