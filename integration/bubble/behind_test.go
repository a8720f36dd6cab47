package bubble

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// behindRounds is how often a manager falls behind in one run.
const behindRounds = 2

// held is longer than a member that is not heard counts as there.
const held = time.Second

// TestAManagerThatFellBehindIsBroughtUpWhileWritesGoOn lets a manager miss more
// than the log holds, in a way drawn from a seed, and has it come back: by a
// snapshot, through kills and held paths while it receives it, and with all
// that was acknowledged meanwhile.
func TestAManagerThatFellBehindIsBroughtUpWhileWritesGoOn(t *testing.T) {
	for _, seed := range chaosSeeds() {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, &modelv1.ClusterSpec{SnapshotInterval: 40})
				ms[0].ready(3)
				x := &behind{c: c, ms: ms, draw: rand.New(rand.NewPCG(seed, 1))}
				for range behindRounds {
					x.round()
				}
			})
		})
	}
}

// behind is one run.
type behind struct {
	c    *cluster
	ms   []*host
	draw *rand.Rand
}

func (x *behind) say(format string, args ...any) {
	x.c.t.Logf("t=%v BEHIND %s", time.Since(x.c.log.began), fmt.Sprintf(format, args...))
}

// upTo draws a time.
func (x *behind) upTo(d time.Duration) time.Duration {
	return time.Duration(x.draw.Int64N(int64(d)))
}

// round has one manager miss writes and come back.
func (x *behind) round() {
	late := x.ms[x.draw.IntN(len(x.ms))]
	w := &writes{of: x.ms[0], acked: map[string]int{}}
	var all sync.WaitGroup
	for _, m := range x.ms {
		if m != late {
			all.Go(func() { w.write(m) })
		}
	}
	defer all.Wait()
	defer w.over.Store(true)
	began := time.Now()
	back, killed := x.lose(late)
	time.Sleep(held) // the log is kept for one that was heard just now
	more := w.count() + 60
	x.c.until(30*time.Second, "more than a snapshot's worth of writes", func() bool { return w.count() > more })
	back()
	for range x.draw.IntN(3) {
		time.Sleep(x.upTo(600 * time.Millisecond))
		if x.draw.IntN(2) == 0 {
			x.say("%s is killed again", late.name)
			late.kill()
			late.start()
			continue
		}
		other := x.ms[x.draw.IntN(len(x.ms))]
		x.say("%s hears nothing of %s for a while", late.name, other.name)
		x.c.net.hold(other.addr, late.addr, true)
		time.Sleep(x.upTo(2 * time.Second))
		x.c.net.hold(other.addr, late.addr, false)
	}
	x.c.until(20*time.Second, late.name+" knowing all that was acknowledged", func() bool { return w.knownTo(late) })
	// What was on its way to a host that was only dark arrives when it is not.
	if killed && !slices.ContainsFunc(x.c.log.since(began, "snapshot of the leader taken over"), func(r record) bool { return r.host == late.name }) {
		x.c.t.Errorf("%s was not sent a snapshot", late.name)
	}
}

// lose takes a manager out, and returns how it comes back.
func (x *behind) lose(late *host) (back func(), killed bool) {
	if x.draw.IntN(2) == 0 {
		x.say("%s is killed", late.name)
		late.kill()
		return late.start, true
	}
	x.say("%s is dark", late.name)
	x.c.net.setDark(late.addr, true)
	return func() { x.c.net.setDark(late.addr, false) }, false
}

// writes is what several writers wrote to one record.
type writes struct {
	of   *host
	over atomic.Bool

	mu    sync.Mutex // guards the field below
	acked map[string]int
}

// write sets labels through a manager, one after another, until it is over.
func (w *writes) write(via *host) {
	for i := 1; !w.over.Load(); i++ {
		req := &controlv1.UpdateNodeRequest{
			RequestId: requestID(), Ref: w.of.id.String(), LabelsAdd: map[string]string{fmt.Sprintf("%s-%d", via.name, i%20): strconv.Itoa(i)},
		}
		for began := time.Now(); ; {
			ctx, stop := via.c.within(5 * time.Second)
			_, err := via.control().UpdateNode(ctx, req)
			stop()
			if err == nil {
				break
			}
			if time.Since(began) > 15*time.Second {
				via.c.t.Errorf("a write through %s: %v", via.name, err)
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		w.mu.Lock()
		w.acked[fmt.Sprintf("%s-%d", via.name, i%20)] = i
		w.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *writes) count() (n int) {
	for _, i := range w.now() {
		n = max(n, i)
	}
	return n
}

func (w *writes) now() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acked)
}

// knownTo reports whether a read through a manager knows what was acknowledged
// before it.
func (w *writes) knownTo(via *host) bool {
	acked := w.now()
	ctx, stop := via.c.within(3 * time.Second)
	defer stop()
	resp, err := via.control().GetNode(ctx, &controlv1.GetNodeRequest{Ref: w.of.id.String()})
	if err != nil {
		return false
	}
	labels := resp.GetNode().GetNode().GetSpec().GetLabels()
	for k, least := range acked {
		if got, err := strconv.Atoi(labels[k]); err != nil || got < least {
			via.c.t.Errorf("through %s: label %s is %q, acknowledged %d", via.name, k, labels[k], least)
		}
	}
	return true
}
