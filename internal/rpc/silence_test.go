package rpc

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials/insecure"
)

func TestSilenceIsTheKernelsToMind(t *testing.T) {
	for name, mind := range map[string]func(dialled, accepted net.Conn) (net.Conn, error){
		"of who came": func(_, accepted net.Conn) (net.Conn, error) { return accepted, mindSilence(accepted) },
		"of whom one dials": func(dialled, _ net.Conn) (net.Conn, error) {
			_, _, err := mindful{insecure.NewCredentials()}.Clone().ClientHandshake(t.Context(), "", dialled)
			return dialled, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			dialled, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer dialled.Close()
			accepted, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer accepted.Close()
			conn, err := mind(dialled, accepted)
			if err != nil {
				t.Fatal(err)
			}
			isMinded(t, conn)
		})
	}
}

func isMinded(t *testing.T, conn net.Conn) {
	t.Helper()
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
