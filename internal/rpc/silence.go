package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
)

// A peer that has gone without a word, with its host or its line, is found out by the
// kernel: after silentFor without a byte it asks the peer's kernel, and a connection
// whose peer has answered nothing, nor taken what was sent, for goneAfter is broken.
// What the peer keeps open here ends with it. The kernel asks without waking this
// process, and by a clock that nobody sets: a timer of gRPC for each connection was a
// quarter of what an idle manager did, and broke every connection of a host whose time of
// day was set back. A peer whose kernel lives and whose process stands still is not
// silence; see Probing.
const (
	silentFor  = 7 * time.Second
	askedEvery = time.Second
	goneAfter  = 12 * time.Second
)

// mindSilence has the kernel watch a connection's silence. What is not of the kernel's
// TCP is left as it is.
func mindSilence(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	err := tcp.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: silentFor, Interval: askedEvery, Count: int((goneAfter - silentFor) / askedEvery),
	})
	if err != nil {
		return fmt.Errorf("have the kernel watch for silence: %w", err)
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return fmt.Errorf("have the kernel watch for silence: %w", err)
	}
	var refused error
	err = raw.Control(func(fd uintptr) {
		refused = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(goneAfter.Milliseconds()))
	})
	return errors.Join(err, refused)
}

// mindful is the credentials of one who dials, and has the kernel mind the silence of
// whom it reaches.
type mindful struct{ transportCreds }

func (c mindful) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if err := mindSilence(raw); err != nil {
		return nil, nil, errors.Join(err, raw.Close())
	}
	return c.transportCreds.ClientHandshake(ctx, authority, raw)
}

func (c mindful) Clone() transportCreds { return mindful{c.transportCreds.Clone()} }
