package rpc

import (
	"container/list"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A rota has the arithmetic of so many handshakes done at a time. The others wait for
// it, and those whose peers have answered already go before those who say their first
// word: a handshake that is begun is worth more than one that may be.
//
// Who waits for its peer waits for that outside: a peer that says nothing keeps nobody
// from a turn.
type rota struct {
	mu   sync.Mutex // guards the fields below; held for memory only
	free int
	// first and begun are those who wait, of chan struct{}, in the order in which they
	// came.
	first, begun list.List
}

func newRota(turns int) *rota { return &rota{free: turns} }

// turnsOf is how many turns there are on so many processors: all but one, which is left
// to what a manager has to do besides, and one at least.
func turnsOf(processors int) int { return max(1, processors-1) }

// enter returns when it is the caller's turn, and true; false, if that is not within a
// time.
func (r *rota) enter(begun bool, within time.Duration) bool {
	r.mu.Lock()
	if r.free > 0 {
		r.free--
		r.mu.Unlock()
		return true
	}
	line := &r.first
	if begun {
		line = &r.begun
	}
	turn := make(chan struct{})
	place := line.PushBack(turn)
	r.mu.Unlock()
	late := time.NewTimer(within)
	defer late.Stop()
	select {
	case <-turn:
		return true
	case <-late.C:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-turn: // in the same moment
		return true
	default:
	}
	line.Remove(place)
	return false
}

// leave ends a turn. It is the next one's then.
func (r *rota) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	line := &r.begun
	if line.Len() == 0 {
		line = &r.first
	}
	next := line.Front()
	if next == nil {
		r.free++
		return
	}
	if turn, ok := line.Remove(next).(chan struct{}); ok { // it is one
		close(turn)
	}
}

var (
	errLate = errors.New("the handshake took too long: too many are under way")
	errGone = errors.New("the peer has gone in the middle of the handshake")
)

// A turntaker is a connection whose handshake is done by turns: what follows a Read is
// arithmetic, until the next Read or Write. When the handshake is over it is as the
// connection below.
type turntaker struct {
	net.Conn
	rota *rota
	// until is when the handshake has to be over.
	until time.Time
	// Only who shakes hands touches what follows before over is set, and nobody after it.
	in, begun, over bool
	// heard counts what was read since the handshake is begun.
	heard int
}

// hearsFirst is how many reads of a handshake that is begun go before others: one that
// comes byte by byte does not keep them out for as long as it lasts. A peer's answer is
// three messages.
const hearsFirst = 16

func (t *turntaker) Read(p []byte) (int, error) {
	if t.over {
		return t.Conn.Read(p)
	}
	t.out()
	n, err := t.Conn.Read(p)
	if err != nil {
		return n, err
	}
	if t.begun {
		t.heard++
	}
	if !t.rota.enter(t.begun && t.heard <= hearsFirst, time.Until(t.until)) {
		return 0, errLate
	}
	t.in = true
	if gone(t.Conn) {
		return 0, errGone
	}
	return n, nil
}

func (t *turntaker) Write(p []byte) (int, error) {
	if t.over {
		return t.Conn.Write(p)
	}
	t.out() // a peer that does not read keeps a writer waiting
	t.begun = true
	return t.Conn.Write(p)
}

// out ends the turn, if it is one.
func (t *turntaker) out() {
	if t.in {
		t.in = false
		t.rota.leave()
	}
}

// end is called when the handshake is over, however it went.
func (t *turntaker) end() {
	t.out()
	t.over = true
}

// gone reports whether the peer has hung up. Nobody says less than he has to in a
// handshake and then only listens.
func gone(c net.Conn) bool {
	k, ok := c.(syscall.Conn)
	if !ok {
		return false // it is not the kernel's
	}
	raw, err := k.SyscallConn()
	if err != nil {
		return true // closed here
	}
	const hungUp = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	var is bool
	err = raw.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(polled, 0)
		is = err == nil && n > 0 && polled[0].Revents&hungUp != 0
	})
	return err != nil || is
}
