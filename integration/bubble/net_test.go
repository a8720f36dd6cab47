package bubble

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
)

// A network carries bytes between hosts, which are named by their addresses. A
// path that is held delivers nothing and loses nothing, as TCP sees a network
// that is away for a while.
type network struct {
	mu     sync.Mutex // guards all of the network; held for memory only
	stacks map[string]*stack
	held   map[path]bool
	dark   map[string]bool
	// closed are the ways on which no connection is made; those there are go on.
	closed map[path]bool
	conns  map[*conn]struct{}
	// changed is closed, and another made, when a path opens or a port does.
	changed chan struct{}
}

// A path is one direction between two hosts.
type path struct{ from, to string }

func newNetwork() *network {
	return &network{
		stacks: make(map[string]*stack), held: make(map[path]bool), dark: make(map[string]bool), closed: make(map[path]bool),
		conns: make(map[*conn]struct{}), changed: make(chan struct{}),
	}
}

// open reports whether bytes go from one host to another now. n.mu is held.
func (n *network) open(from, to string) bool {
	return from == to || !n.dark[from] && !n.dark[to] && !n.held[path{from, to}]
}

// change changes paths and delivers what may go on.
func (n *network) change(do func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	do()
	for c := range n.conns {
		c.settle()
	}
	n.wake()
}

func (n *network) wake() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// setDark makes a host silent, or ends that.
func (n *network) setDark(host string, dark bool) { n.change(func() { n.dark[host] = dark }) }

// hold holds one direction between two hosts, or ends that.
func (n *network) hold(from, to string, held bool) {
	n.change(func() { n.held[path{from, to}] = held })
}

// split holds both directions between two hosts, or ends that.
func (n *network) split(a, b string, held bool) {
	n.change(func() { n.held[path{a, b}], n.held[path{b, a}] = held, held })
}

// shut refuses new connections from one host to another, or ends that.
func (n *network) shut(from, to string, shut bool) {
	n.change(func() { n.closed[path{from, to}] = shut })
}

// A stack is one process's use of the network: it ends with the process.
type stack struct {
	net   *network
	host  string
	dead  bool
	ports map[string]*listener
}

// stack is a new process on a host; the one before it is dead.
func (n *network) stack(host string) *stack {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := &stack{net: n, host: host, ports: make(map[string]*listener)}
	n.stacks[host] = s
	return s
}

// kill ends the process without a word of its own. Its host resets what was
// connected, if it is there to do so.
func (s *stack) kill() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.dead = true
	for _, l := range s.ports {
		l.end()
	}
	for c := range s.net.conns {
		if c.stack != s {
			continue
		}
		c.broken = net.ErrClosed
		c.peer.resetComing = !s.net.dark[s.host]
		c.peer.settle()
		c.wake()
		delete(s.net.conns, c)
	}
	s.net.wake()
}

var (
	errDead    = errors.New("the process is dead")
	errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	errReset   = &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
)

// listen opens a port, host:port, or the socket at a path.
func (s *stack) listen(address string) (net.Listener, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	if s.dead {
		return nil, errDead
	}
	if s.ports[address] != nil {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: os.NewSyscallError("bind", syscall.EADDRINUSE)}
	}
	l := &listener{stack: s, address: addr(address), arrived: make(chan struct{}, 1), ended: make(chan struct{})}
	s.ports[address] = l
	s.net.wake()
	return l, nil
}

// dial connects to a port of a host. While the way there or back is held it
// waits, as one who gets no answer.
func (s *stack) dial(ctx context.Context, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	for {
		c, changed, err := s.try(host, address)
		if c != nil || err != nil {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: addr(address), Err: ctx.Err()}
		case <-changed:
		}
	}
}

func (s *stack) try(host, address string) (net.Conn, <-chan struct{}, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	switch to := s.net.stacks[host]; {
	case s.dead:
		return nil, nil, errDead
	case !s.net.open(s.host, host) || !s.net.open(host, s.host):
		return nil, s.net.changed, nil
	case to == nil || to.dead || to.ports[address] == nil || s.net.closed[path{s.host, host}]:
		return nil, nil, errRefused
	default:
		return to.ports[address].join(s), nil, nil
	}
}

// dialUnix connects a user on the host itself to the socket at a path.
func (s *stack) dialUnix(path string) (net.Conn, error) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	l := s.ports[path]
	if l == nil || s.dead {
		return nil, errRefused
	}
	return l.join(&stack{net: s.net, host: s.host}), nil
}

// A listener is an open port.
type listener struct {
	stack   *stack
	address addr
	queue   []*conn
	arrived chan struct{} // capacity 1: queue is not empty
	ended   chan struct{}
	closed  bool
}

// join makes a connection and queues its end. The network's lock is held.
func (l *listener) join(from *stack) net.Conn {
	n := l.stack.net
	near := &conn{net: n, stack: from, local: addr(from.host + ":50000"), remote: l.address, changed: make(chan struct{})}
	far := &conn{net: n, stack: l.stack, local: l.address, remote: near.local, changed: make(chan struct{})}
	near.peer, far.peer = far, near
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	l.queue = append(l.queue, far)
	signal(l.arrived)
	return near
}

// Accept returns the next connection.
func (l *listener) Accept() (net.Conn, error) {
	for {
		select {
		case <-l.ended:
			return nil, net.ErrClosed
		case <-l.arrived:
		}
		if c := l.next(); c != nil {
			return c, nil
		}
	}
}

func (l *listener) next() net.Conn {
	l.stack.net.mu.Lock()
	defer l.stack.net.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	c := l.queue[0]
	if l.queue = l.queue[1:]; len(l.queue) > 0 {
		signal(l.arrived)
	}
	return c
}

// Close closes the port.
func (l *listener) Close() error {
	l.stack.net.mu.Lock()
	defer l.stack.net.mu.Unlock()
	l.end()
	return nil
}

// end closes the port and what nobody has accepted. The network's lock is held.
func (l *listener) end() {
	if l.closed {
		return
	}
	l.closed = true
	if l.stack.ports[string(l.address)] == l {
		delete(l.stack.ports, string(l.address))
	}
	close(l.ended)
	for _, c := range l.queue {
		c.broken, c.peer.resetComing = net.ErrClosed, true
		c.peer.settle()
		delete(l.stack.net.conns, c)
	}
	l.queue = nil
}

// Addr is where it listens.
func (l *listener) Addr() net.Addr { return l.address }

// addr is host:port, or the path of a socket.
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

// signal sets a level: one that waits already is enough.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
