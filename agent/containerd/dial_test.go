package containerd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
)

// TestASocketThatIsMissingIsWaitedFor: containerd is often started with the daemon.
func TestASocketThatIsMissingIsWaitedFor(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "c.sock")
	ctx, stop := context.WithCancel(t.Context())
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled)
	dial := func() {
		conn, err := dialSocket(ctx, path)
		done <- dialled{conn, err}
	}
	go dial()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	got := <-done
	if got.err != nil {
		t.Fatalf("dial: %v", got.err)
	}
	if err := errors.Join(got.conn.Close(), lis.Close()); err != nil {
		t.Error(err)
	}
	go dial() // closing it removed the socket
	stop()
	if got := <-done; got.err == nil {
		t.Error("a socket that never came was dialled")
	}
}
