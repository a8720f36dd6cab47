package cfssltest

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A Net is a network in memory, which works in virtual time. Its zero value is empty.
type Net struct {
	mu    sync.Mutex // guards ports
	ports map[string]*port
}

type port struct {
	address string
	arrived chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

// Listen opens a port, host:port.
func (n *Net) Listen(address string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ports == nil {
		n.ports = make(map[string]*port)
	}
	p := &port{address: address, arrived: make(chan net.Conn), closed: make(chan struct{})}
	n.ports[address] = p
	return p
}

// Dial connects to a port; one that is closed or never was refuses.
func (n *Net) Dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	p := n.ports[address]
	n.mu.Unlock()
	if p == nil {
		return nil, fmt.Errorf("connect %s: connection refused", address)
	}
	here, there := connect(address)
	select {
	case p.arrived <- there:
		return here, nil
	case <-p.closed:
		return nil, fmt.Errorf("connect %s: connection refused", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *port) Accept() (net.Conn, error) {
	select {
	case c := <-p.arrived:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *port) Addr() net.Addr { return where(p.address) }

type where string

func (where) Network() string  { return "memory" }
func (w where) String() string { return string(w) }

// A way carries bytes in one direction, and holds what was not read yet: who writes
// never waits.
type way struct {
	mu     sync.Mutex // guards the fields below
	buf    []byte
	closed bool
	until  time.Time // the reader's deadline
	// changed is closed, and another made, when anything above changes.
	changed chan struct{}
}

func newWay() *way { return &way{changed: make(chan struct{})} }

func (w *way) change(do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	do()
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *way) read(b []byte) (int, error) {
	for {
		w.mu.Lock()
		n, closed, until, changed := copy(b, w.buf), w.closed, w.until, w.changed
		w.buf = w.buf[n:]
		w.mu.Unlock()
		switch {
		case n > 0 || len(b) == 0:
			return n, nil
		case closed:
			return 0, io.EOF
		case !until.IsZero() && !time.Now().Before(until):
			return 0, os.ErrDeadlineExceeded
		}
		var late <-chan time.Time
		if !until.IsZero() {
			late = time.After(time.Until(until))
		}
		select {
		case <-changed:
		case <-late:
		}
	}
}

// A conn is one end of two ways.
type conn struct {
	address where
	in, out *way
}

func connect(address string) (here, there net.Conn) {
	a, b := newWay(), newWay()
	return &conn{where(address), a, b}, &conn{where(address), b, a}
}

func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

func (c *conn) Write(b []byte) (n int, err error) {
	c.out.change(func() {
		if c.out.closed {
			err = net.ErrClosed
			return
		}
		c.out.buf, n = append(c.out.buf, b...), len(b)
	})
	return n, err
}

func (c *conn) Close() error {
	c.in.change(func() { c.in.closed = true })
	c.out.change(func() { c.out.closed = true })
	return nil
}

func (c *conn) LocalAddr() net.Addr               { return c.address }
func (c *conn) RemoteAddr() net.Addr              { return c.address }
func (c *conn) SetDeadline(t time.Time) error     { return c.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(time.Time) error  { return nil } // no write waits
func (c *conn) SetReadDeadline(t time.Time) error { c.in.change(func() { c.in.until = t }); return nil }
