package node

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// FuzzFacts reads whatever lies in the place of what a manager knows of itself.
func FuzzFacts(f *testing.F) {
	f.Add([]byte(`{"format":1,"installed":true,"member":7,"peers":[{"raft_id":"12","node":"x","address":"10.0.0.1:2377"}]}`))
	f.Add([]byte(`{"format":99}`))
	dir := f.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, factsFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readFacts(root); err == nil && got.Format > factsFormat {
			t.Errorf("a newer format is read: %q", data)
		}
	})
}

// FuzzEndpoint reads --listen-addr and --advertise-addr: what comes out can be
// listened at and told to others.
func FuzzEndpoint(f *testing.F) {
	for _, said := range []string{"", "eth0", "eth0:4000", "10.0.0.1", "[fd00::1]:2377", "::", ":1", "a:b:c", "::%]0"} {
		f.Add(said, said)
	}
	known := table{"eth0": {netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")}, "eth1": {netip.MustParseAddr("192.168.0.7")}}
	f.Fuzz(func(t *testing.T, listen, advertise string) {
		got, err := chooseEndpoint(known, listen, advertise)
		if err != nil {
			return
		}
		for _, a := range []string{got.listen, got.advertise} {
			if _, port, err := net.SplitHostPort(a); err != nil || port == "0" {
				t.Errorf("listen %q, advertise %q: %q: %v", listen, advertise, a, err)
			}
		}
	})
}
