package rpc

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSilenceIsTheKernelsToMind(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := mindSilence(conn); err != nil {
		t.Fatal(err)
	}

	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	option := func(level, name int) (v int) {
		if cerr := raw.Control(func(fd uintptr) { v, err = unix.GetsockoptInt(int(fd), level, name) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return v
	}
	if option(unix.SOL_SOCKET, unix.SO_KEEPALIVE) == 0 {
		t.Error("the kernel does not ask a silent peer")
	}
	idle := time.Duration(option(unix.IPPROTO_TCP, unix.TCP_KEEPIDLE)) * time.Second
	every := time.Duration(option(unix.IPPROTO_TCP, unix.TCP_KEEPINTVL)) * time.Second
	asked := option(unix.IPPROTO_TCP, unix.TCP_KEEPCNT)
	if gone := idle + time.Duration(asked)*every; gone != goneAfter {
		t.Errorf("a silent peer is gone after %v, want %v", gone, goneAfter)
	}
	if unacknowledged := time.Duration(option(unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT)) * time.Millisecond; unacknowledged != goneAfter {
		t.Errorf("a peer that takes nothing is gone after %v, want %v", unacknowledged, goneAfter)
	}
}

func TestSilenceOfWhatIsNoSocket(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := mindSilence(a); err != nil {
		t.Errorf("a connection within the process: %v", err)
	}
}
