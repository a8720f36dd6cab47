package metrics

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// An Address is where the pages are served: a port or a unix socket. The zero
// Address is nowhere.
type Address struct {
	network, at string
	loopback    bool
}

// ParseAddress reads "IP:PORT", "localhost:PORT", ":PORT" (every address of the
// host), or "unix:PATH" and "unix://PATH" with an absolute path. Empty is the
// zero Address.
func ParseAddress(s string) (Address, error) {
	if s == "" {
		return Address{}, nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		if !filepath.IsAbs(path) || strings.ContainsRune(path, 0) {
			return Address{}, fmt.Errorf("%q: want unix: and an absolute path", s)
		}
		return Address{network: "unix", at: filepath.Clean(path), loopback: true}, nil
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q: want IP:PORT or unix:PATH", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return Address{}, fmt.Errorf("%q: want a port from 1 to 65535", s)
	}
	switch host {
	case "":
		return Address{network: "tcp", at: s}, nil
	case "localhost":
		return Address{network: "tcp", at: s, loopback: true}, nil
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return Address{}, fmt.Errorf("%q: want an IP address before the port", s)
	}
	return Address{network: "tcp", at: s, loopback: ip.Unmap().IsLoopback()}, nil
}

// IsZero reports whether a is nowhere.
func (a Address) IsZero() bool { return a == Address{} }

// Local reports whether only processes of this host reach a.
func (a Address) Local() bool { return a.loopback }

func (a Address) String() string {
	if a.network == "unix" {
		return "unix:" + a.at
	}
	return a.at
}

// Listen opens a. A socket is made for its owner and group; one that nobody
// answers at any more is replaced.
func (a Address) Listen() (net.Listener, error) {
	if a.network != "unix" {
		l, err := net.Listen(a.network, a.at)
		if err != nil {
			return nil, fmt.Errorf("listen for metrics: %w: free the port, or name another with --metrics-addr", err)
		}
		return l, nil
	}
	if c, err := net.DialTimeout("unix", a.at, time.Second); err == nil {
		_ = c.Close() // it answers: that is all there was to learn
		return nil, fmt.Errorf("listen for metrics: another process answers at %s: name another socket with --metrics-addr", a.at)
	}
	if err := removeSocket(a.at); err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	old := unix.Umask(0o117) // the socket is born with its mode; nobody slips in before a chmod
	l, err := net.Listen("unix", a.at)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	return l, nil
}

// removeSocket removes a stale socket, and nothing that is not one.
func removeSocket(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	return os.Remove(path)
}
