package enrol

import (
	"net/netip"
	"testing"
)

// FuzzNetworks asks whether an address is let in: what cannot be read is not, and what
// is must be in the network.
func FuzzNetworks(f *testing.F) {
	f.Add("10.1.2.3", "10.1.0.0/16")
	f.Add("::ffff:10.1.2.3", "10.1.0.0/16")
	f.Add("fe80::1%eth0", "fe80::/10")
	f.Add("", "0.0.0.0/0")
	f.Add("10.1.2.3:4", "")
	f.Fuzz(func(t *testing.T, address, network string) {
		in := comesFrom(address, []string{network})
		a, aerr := netip.ParseAddr(address)
		p, perr := netip.ParsePrefix(network)
		if in && (aerr != nil || perr != nil || !p.Contains(a.WithZone("").Unmap())) {
			t.Errorf("%q is let in from %q", address, network)
		}
		if perr == nil && !p.Addr().Is4In6() && !comesFrom(p.Addr().String(), []string{network}) {
			t.Errorf("%q is not in its own network %q", p.Addr(), network)
		}
		if !comesFrom(address, nil) {
			t.Errorf("%q is let in nowhere", address)
		}
	})
}
