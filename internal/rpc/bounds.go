package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What those who are no managers may have of a server at once. gRPC reads the whole
// message of a call before anybody can ask who sent it, so what a connection holds is
// bounded by how much may be sent on it and how many calls may be open, and not by
// refusals. Managers, and this host's own root, have the bounds of the server.
const (
	// A joiner asks for one certificate: some kilobytes, by one call.
	strangerBytes   = 128 << 10
	strangerStreams = 4
	// A worker has its session, the one that takes its place and what it asks for in
	// between. Other connections of one key are those that were there before it was
	// started again, and those of the clones of its disk.
	workerStreams = 32
	workerConns   = 16
	// A user's jobs may run side by side on many machines.
	userStreams = 256
	userConns   = 256
	// handshakes bounds, for each address, the connections on which nobody has proved
	// anything yet; each is there for as long as a handshake may take.
	handshakes = 4096
	// maxHeaderBytes bounds what precedes a call. Who carries one for another says so
	// in less than a kilobyte.
	maxHeaderBytes = 32 << 10
)

// A crowd counts who is there by what they have in common. The zero crowd is empty.
type crowd[K comparable] struct {
	mu    sync.Mutex // guards there; held for memory only
	there map[K]int
}

// enter counts one more, unless most are there already. Leave takes it back; it may
// be called more than once.
func (c *crowd[K]) enter(k K, most int) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.there[k] >= most {
		return nil, false
	}
	if c.there == nil {
		c.there = map[K]int{}
	}
	c.there[k]++
	return sync.OnceFunc(func() { c.leave(k) }), true
}

func (c *crowd[K]) leave(k K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.there[k]--; c.there[k] == 0 {
		delete(c.there, k)
	}
}

// BucketOf returns what a host counts as where those who have proved nothing are
// bounded: an IPv6 address by its /64, the least a machine is given.
func BucketOf(host string) string {
	ip := net.ParseIP(host)
	if ip == nil || ip.To4() != nil {
		return host
	}
	return ip.Mask(net.CIDRMask(64, 128)).String()
}

func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// counted is a connection that gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	c.leave()
	return c.Conn.Close()
}

// placeOf returns by what a connection is counted, and how many of its kind may be
// there. ok is false for those that are not counted.
func (l *link) placeOf() (key ca.Digest, most int, ok bool) {
	switch {
	case l.person != nil:
		return l.person.KeySHA256, userConns, true
	case l.node != nil && l.node.Role != modelv1.Role_ROLE_MANAGER:
		return l.node.KeySHA256, workerConns, true
	}
	return ca.Digest{}, 0, false
}

// maxStreams is how many calls may be open on a connection.
func (l *link) maxStreams() int64 {
	switch {
	case l.user:
		return maxStreams
	case l.person != nil:
		return userStreams
	case l.node == nil:
		return strangerStreams
	case l.node.Role != modelv1.Role_ROLE_MANAGER:
		return workerStreams
	}
	return maxStreams
}

// what names the kind of a link in a refusal.
func (l *link) what() string {
	switch {
	case l.person != nil:
		return "user " + l.person.Name
	case l.node != nil:
		return "node " + l.node.Node.String()
	}
	return "a caller without a certificate"
}

// tap lets a call begin, before anything of its message is read, if its connection
// has room for one more. A call with one answer has its message here within the time
// of a call that brings none: it is not before it is here that the chain can begin.
func (s *Server) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx, nil // the chain says so
	}
	l, ok := p.AuthInfo.(*link)
	if !ok {
		return ctx, nil // the chain says so
	}
	if most := l.maxStreams(); l.open.Add(1) > most {
		l.open.Add(-1)
		return nil, toStatus(Refuse(Errorf(errdefs.ErrResourceExhausted, "%s: %s has %d calls open on this connection, and no more may be",
			info.FullMethodName, l.what(), most), "end some of them first"))
	}
	context.AfterFunc(ctx, func() { l.open.Add(-1) })
	if _, bound := ctx.Deadline(); bound || !s.answersOnce(info.FullMethodName) {
		return ctx, nil
	}
	out, stop := context.WithTimeout(ctx, s.cfg.Timeout)
	context.AfterFunc(ctx, stop)
	return out, nil
}

// answersOnce reports whether a method takes one message and gives one.
func (s *Server) answersOnce(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.methods[name]
	return m != nil && !m.stream
}

// errSpent ends a connection without a certificate that was sent more than any
// joiner has to say.
var errSpent = fmt.Errorf("more than %d bytes came without a certificate", strangerBytes)

// strangerConn gives its place back when it is closed, and ends when its time or its
// bytes do.
type strangerConn struct {
	counted
	end  atomic.Pointer[time.Timer]
	left atomic.Int64
}

func (s *strangerConn) Read(p []byte) (int, error) {
	n, err := s.counted.Read(p)
	if s.left.Add(-int64(n)) < 0 {
		return 0, errors.Join(errSpent, s.Close())
	}
	return n, err
}

func (s *strangerConn) Close() error {
	if t := s.end.Load(); t != nil {
		t.Stop()
	}
	return s.counted.Close()
}
