package bubble

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

// windowBytes is how much may be under way in one direction of a connection.
const windowBytes = 4 << 20

// A conn is one end of a connection. Its fields are guarded by the network.
type conn struct {
	net           *network
	stack         *stack
	peer          *conn
	local, remote addr

	way     []byte // sent to this end and held
	data    []byte // arrived and not read
	finWay  bool   // the peer's end, held
	fin     bool   // the peer has ended
	closed  bool   // this end was closed here
	broken  error  // what every call returns
	changed chan struct{}
	// resetComing says that the peer's host has reset the connection.
	resetComing bool
	read, write time.Time // deadlines
}

func (c *conn) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// settle delivers what is on the way to this end, if the path is open. The
// network's lock is held.
func (c *conn) settle() {
	if !c.net.open(c.peer.stack.host, c.stack.host) || c.broken != nil {
		return
	}
	if len(c.way) > 0 {
		if c.closed || c.stack.dead { // nobody takes it: the host answers with a reset
			c.way, c.peer.resetComing = nil, true
			c.peer.settle()
			return
		}
		c.data, c.way = append(c.data, c.way...), nil
	}
	c.fin = c.fin || c.finWay
	if c.resetComing {
		c.broken = errReset
		delete(c.net.conns, c)
	}
	c.wake()
	c.peer.wake() // there is room
}

// Read reads what has arrived.
func (c *conn) Read(p []byte) (int, error) {
	return c.await(func() time.Time { return c.read }, func() (int, error, bool) {
		switch {
		case len(c.data) > 0:
			n := copy(p, c.data)
			if c.data = c.data[n:]; len(c.data) == 0 {
				c.data = nil
				c.peer.wake()
			}
			return n, nil, true
		case c.broken != nil:
			return 0, c.broken, true
		case c.fin:
			return 0, io.EOF, true
		}
		return 0, nil, len(p) == 0
	})
}

// Write sends p, waiting while too much is under way.
func (c *conn) Write(p []byte) (int, error) {
	return c.await(func() time.Time { return c.write }, func() (int, error, bool) {
		switch {
		case c.broken != nil:
			return 0, c.broken, true
		case len(c.peer.way)+len(c.peer.data) > windowBytes:
			return 0, nil, false
		}
		c.peer.way = append(c.peer.way, p...)
		c.peer.settle()
		return len(p), nil, true
	})
}

// await calls try until it is done, the deadline passes or this end is closed.
func (c *conn) await(deadline func() time.Time, try func() (int, error, bool)) (int, error) {
	for {
		c.net.mu.Lock()
		if c.closed {
			c.net.mu.Unlock()
			return 0, net.ErrClosed
		}
		at, changed := deadline(), c.changed
		if !at.IsZero() && !time.Now().Before(at) {
			c.net.mu.Unlock()
			return 0, os.ErrDeadlineExceeded
		}
		n, err, done := try()
		c.net.mu.Unlock()
		if done {
			return n, err
		}
		wait(changed, at)
	}
}

// wait returns when changed is closed, or at the deadline if there is one.
func wait(changed <-chan struct{}, at time.Time) {
	if at.IsZero() {
		<-changed
		return
	}
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-changed:
	case <-t.C:
	}
}

// Close ends the connection; the peer reads what was sent and then the end.
func (c *conn) Close() error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	c.peer.finWay = true
	if c.broken == nil {
		c.peer.settle()
	}
	c.wake()
	if c.peer.closed || c.peer.broken != nil {
		delete(c.net.conns, c)
		delete(c.net.conns, c.peer)
	}
	return nil
}

func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// PeerUID is root's: the tests are the users of every socket.
func (c *conn) PeerUID() (uint32, error) { return 0, nil }

func (c *conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *conn) SetReadDeadline(t time.Time) error  { return c.set(&c.read, t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.set(&c.write, t) }

func (c *conn) set(deadline *time.Time, t time.Time) error {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	*deadline = t
	c.wake()
	return nil
}
