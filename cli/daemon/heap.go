package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// The collector of garbage waits, by itself, until as much was taken as lives: a manager
// of middling size spends a fifth of its time on it. It is given more room where that is
// little in all: up to three times what lives, as long as it is no more than roomBytes.
// Where less than modestBytes lives, on a worker for instance, and where more lives than
// roomBytes, it is as it was.
const (
	roomBytes    = 192 << 20
	modestBytes  = 16 << 20
	usualPercent = 100
	mostPercent  = 300
	// leastTurn is by how much the percentage turns at least: to set it stops the
	// program for a moment.
	leastTurn = 20
)

// percentOf is the room, in percent of what lives.
func percentOf(live uint64) int {
	if live < modestBytes {
		return usualPercent
	}
	return int(min(max(roomBytes*100/live, usualPercent), mostPercent))
}

// room gives the collector room after each of its runs.
type room struct {
	percent int
	set     func(percent int)
}

// giveRoom has the collector take the room that percentOf says, for as long as the
// program runs, unless its environment says how much (GOGC). A limit on memory
// (GOMEMLIMIT) holds either way.
func giveRoom(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	r := &room{percent: usualPercent, set: func(percent int) { debug.SetGCPercent(percent) }}
	r.await()
}

// await has the next run of the collector, which finds a value that nobody holds, look
// at what it has left.
func (r *room) await() {
	nobodys := new([16]byte) // as large as is not put together with others
	runtime.SetFinalizer(nobodys, func(*[16]byte) {
		r.turn(live())
		r.await()
	})
}

func (r *room) turn(live uint64) {
	percent := percentOf(live)
	if turn := percent - r.percent; turn > -leastTurn && turn < leastTurn {
		return
	}
	r.percent = percent
	r.set(percent)
}

// live is how many bytes the collector's last run has left.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
