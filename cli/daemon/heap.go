package daemon

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// The collector of garbage waits, by itself, until as much was taken as lives: a manager
// that has much to do spends a fifth of its time on it. While it runs often it is given
// more room where that is little in all: up to three times what lives, as long as it is
// no more than roomBytes. Where less than modestBytes lives, on a worker for instance, it
// is as it was, and so it is where more lives than roomBytes, up to mostBytes: no more
// than that is held by what nobody needs.
const (
	modestBytes  = 16 << 20
	roomBytes    = 192 << 20
	mostBytes    = 512 << 20
	usualPercent = 100
	mostPercent  = 300
	// often is the longest time between two runs of a collector that has much to do, and
	// enough is how many in a row are that close to the one before. To give memory back
	// takes two, which may follow one.
	often  = 2 * time.Second
	enough = 3
	// calm is for how long it has not had so when the room is taken back, and what is
	// free of it given back to the system.
	calm = 10 * time.Second
	// leastTurn is by how much the percentage turns at least, but back to the usual: to
	// set it stops the program for a moment.
	leastTurn = 20
)

// percentOf is the room, in percent of what lives.
func percentOf(live uint64) int {
	if live < modestBytes {
		return usualPercent
	}
	room := min(max(live, roomBytes), mostBytes)
	return int(min(room*100/live, mostPercent))
}

// room gives the collector room while it runs often.
type room struct {
	set  func(percent int)
	free func() // gives the system what is free

	mu      sync.Mutex // guards the fields below
	percent int
	last    time.Time   // when the collector ran
	close   int         // how many runs in a row were close to the one before
	live    uint64      // and what it left
	back    *time.Timer // takes the room back
}

// giveRoom has the collector take the room that percentOf says, for as long as the
// program runs, unless its environment says how much (GOGC). A limit on memory
// (GOMEMLIMIT) holds either way.
func giveRoom(getenv func(string) string) {
	if getenv("GOGC") != "" {
		return
	}
	newRoom(func(percent int) { debug.SetGCPercent(percent) }, debug.FreeOSMemory).await()
}

func newRoom(set func(percent int), free func()) *room {
	r := &room{set: set, free: free, percent: usualPercent}
	r.back = time.AfterFunc(calm, r.takeBack)
	return r
}

// await has the next run of the collector, which finds a value that nobody holds, look
// at what it has left.
func (r *room) await() {
	nobodys := new([16]byte) // as large as is not put together with others
	runtime.SetFinalizer(nobodys, func(*[16]byte) {
		r.ran(live())
		r.await()
	})
}

// ran takes note that the collector has run and left live bytes.
func (r *room) ran(live uint64) {
	r.mu.Lock()
	now := time.Now()
	if r.close++; now.Sub(r.last) > often {
		r.close = 0
	}
	r.last, r.live = now, live
	busy := r.close >= enough
	r.mu.Unlock()
	if !busy {
		return
	}
	r.turn(percentOf(live))
	r.back.Reset(calm)
}

// turn sets the room, and reports whether it was another.
func (r *room) turn(percent int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	turn := percent - r.percent
	if turn == 0 || percent != usualPercent && turn > -leastTurn && turn < leastTurn {
		return false
	}
	r.percent = percent
	r.set(percent)
	return true
}

func (r *room) takeBack() {
	r.mu.Lock()
	percent := min(percentOf(r.live), usualPercent)
	r.mu.Unlock()
	if r.turn(percent) {
		r.free()
	}
}

// live is how many bytes the collector's last run has left.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
