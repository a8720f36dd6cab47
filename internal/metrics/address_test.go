package metrics

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]struct{ at, local, fault string }{
		"127.0.0.1:9323":        {at: "127.0.0.1:9323", local: "yes"},
		"[::1]:9323":            {at: "[::1]:9323", local: "yes"},
		"[::ffff:127.0.0.1]:99": {at: "[::ffff:127.0.0.1]:99", local: "yes"},
		"localhost:9323":        {at: "localhost:9323", local: "yes"},
		"unix:/run/m.sock":      {at: "unix:/run/m.sock", local: "yes"},
		"unix:///run/m.sock":    {at: "unix:/run/m.sock", local: "yes"},
		"10.0.0.1:9323":         {at: "10.0.0.1:9323"},
		"0.0.0.0:9323":          {at: "0.0.0.0:9323"},
		":9323":                 {at: ":9323"},
		"[::]:9323":             {at: "[::]:9323"},
		"9323":                  {fault: "want IP:PORT or unix:PATH"},
		"127.0.0.1:0":           {fault: "want a port from 1 to 65535"},
		"127.0.0.1:http":        {fault: "want a port"},
		"monitor:9323":          {fault: "want an IP address"},
		"unix:m.sock":           {fault: "absolute path"},
	} {
		a, err := ParseAddress(text)
		if err != nil || want.fault != "" {
			if err == nil || want.fault == "" || !strings.Contains(err.Error(), want.fault) {
				t.Errorf("%q: %v, want %q", text, err, want.fault)
			}
			continue
		}
		if a.String() != want.at || a.Local() != (want.local != "") || a.IsZero() {
			t.Errorf("%q = %v, local %v; want %+v", text, a, a.Local(), want)
		}
	}
	if a, err := ParseAddress(""); err != nil || !a.IsZero() {
		t.Errorf("nothing = %v, %v; want the zero address", a, err)
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"", ":1", "127.0.0.1:9323", "unix:///a", "[::1%lo]:2", "localhost:70000", "unix:////"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			if !a.IsZero() {
				t.Errorf("%q is refused and is %v", s, a)
			}
			return
		}
		again, err := ParseAddress(a.String())
		if err != nil || again != a {
			t.Errorf("%q is %v, which is %v, %v", s, a, again, err)
		}
		// What is taken for this host's must be: nothing else stands between.
		host, _, err := net.SplitHostPort(a.at)
		if ip := net.ParseIP(host); a.Local() && a.network == "tcp" && (err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback())) {
			if zone := strings.IndexByte(host, '%'); zone < 0 || !net.ParseIP(host[:zone]).IsLoopback() {
				t.Errorf("%q counts as local", s)
			}
		}
	})
}

func TestASocketIsForOwnerAndGroup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "m")
	a, err := ParseAddress("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	l, err := a.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	s := New(Config{Look: full, Condition: func() Condition { return Condition{} }, Log: slog.New(slog.DiscardHandler)})
	go func() { ended <- s.Serve(ctx, l) }()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode %v, %v; want 0660", info.Mode(), err)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	resp, err := client.Get("http://skep/healthz")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%v, %v; want 200", resp, err)
	}
	_ = resp.Body.Close() // only its status counts
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
