//go:build lab

package lab_test

import (
	"bufio"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// clockWord is the first argument of this program as one that tells the time.
const clockWord = "tell-the-time"

// tellTheTime says, for as long as it lives, how its clocks have gone since it
// began: the time of day, and the monotonic one.
func tellTheTime() {
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		now := time.Now()
		fmt.Println(now.UnixNano(), int64(now.Sub(began)))
	}
}

// A teller is a process that tells the time.
type teller struct {
	*testing.T
	*lab.Proc
	out *bufio.Scanner
}

func tell(t *testing.T, h *lab.Host) teller {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Spawn(t.Context(), write, "/proc/1/exe", clockWord)
	_ = write.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() })
	return teller{T: t, Proc: p, out: bufio.NewScanner(read)}
}

// off waits until the process's time of day is that far from this one's: the
// first lines that it reads may be older than a step.
func (c teller) off(want time.Duration) (mono time.Duration) {
	c.Helper()
	var day int64
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline) && c.out.Scan(); {
		if _, err := fmt.Sscan(c.out.Text(), &day, &mono); err != nil {
			c.Fatalf("it says %q: %v", c.out.Text(), err)
		}
		if off := time.Until(time.Unix(0, day)) - want; off.Abs() < time.Second {
			return mono
		}
	}
	c.Fatalf("its clock is %v off, want %v", time.Until(time.Unix(0, day)), want)
	return 0
}

func TestTheClockOfOneProcessIsSteppedAlone(t *testing.T) {
	_, h := open(t, "dev01")
	stepped, other := tell(t, h[0]), tell(t, h[0])
	began := time.Now()
	first := stepped.off(0)
	for _, d := range []time.Duration{time.Hour, -time.Hour, 24 * time.Hour, 0, -5 * time.Second} {
		if err := stepped.StepClock(t.Context(), d); err != nil {
			t.Fatal(err)
		}
		if mono := stepped.off(d) - first; mono < 0 || mono > time.Since(began) {
			t.Errorf("stepped by %v: its monotonic clock went %v in %v", d, mono, time.Since(began))
		}
		other.off(0)
	}
	if err := stepped.StepClock(t.Context(), time.Millisecond); err == nil {
		t.Error("a step of no whole seconds was taken")
	}
	if err := h[0].StepClock(t.Context(), 0); err == nil {
		t.Error("the clock of a daemon that does not run was stepped")
	}
}
