package node

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/rpc"
)

type table map[string][]netip.Addr

func (t table) interfaces() (map[string][]netip.Addr, error) { return t, nil }

func TestChooseEndpoint(t *testing.T) {
	t.Parallel()
	one := table{"eth0": {netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.1")}}
	two := table{"eth0": one["eth0"], "eth1": {netip.MustParseAddr("192.168.0.7")}}
	for _, tt := range []struct {
		name              string
		from              table
		listen, advertise string
		want              endpoint
		fault             string
	}{
		{name: "one address is chosen by itself, IPv4 first", from: one,
			want: endpoint{"0.0.0.0:2377", "10.0.0.1:2377"}},
		{name: "an IPv6 address on another interface makes no second choice",
			from: table{"eth0": {netip.MustParseAddr("10.0.0.1")}, "tun0": {netip.MustParseAddr("fd00::1")}},
			want: endpoint{"0.0.0.0:2377", "10.0.0.1:2377"}},
		{name: "of several addresses none is guessed", from: two, fault: "several addresses"},
		{name: "an interface names its address", from: two, advertise: "eth1",
			want: endpoint{"0.0.0.0:2377", "192.168.0.7:2377"}},
		{name: "an interface may have a port", from: two, advertise: "eth1:4000",
			want: endpoint{"0.0.0.0:2377", "192.168.0.7:4000"}},
		{name: "the advertised port follows the one listened at", from: one, listen: "10.0.0.1:3000",
			want: endpoint{"10.0.0.1:3000", "10.0.0.1:3000"}},
		{name: "IPv6 stands in brackets", from: two, advertise: "fd00::1",
			want: endpoint{"0.0.0.0:2377", "[fd00::1]:2377"}},
		{name: "a machine alone with itself uses loopback", from: table{},
			want: endpoint{"0.0.0.0:2377", "127.0.0.1:2377"}},
		{name: "an unknown interface is named", from: one, advertise: "eth9", fault: `advertise-addr "eth9"`},
		{name: "an unspecified address is not advertised", from: one, advertise: "0.0.0.0", fault: "unspecified"},
		{name: "a port out of range is refused", from: one, listen: "0.0.0.0:70000", fault: "70000"},
		{name: "port zero is refused", from: one, listen: "0.0.0.0:0", fault: "between 1 and 65535"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := chooseEndpoint(tt.from, tt.listen, tt.advertise)
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Fatalf("chooseEndpoint = %v, %v; want an error with %q", got, err, tt.fault)
				}
				return
			}
			if err != nil || got != tt.want {
				t.Errorf("chooseEndpoint = %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestSeveralAddressesAreListedAsAHint(t *testing.T) {
	t.Parallel()
	_, err := chooseEndpoint(table{
		"eth0": {netip.MustParseAddr("10.0.0.1")}, "eth1": {netip.MustParseAddr("192.168.0.7")},
	}, "", "")
	want := "choose one with --advertise-addr: 10.0.0.1 on eth0, 192.168.0.7 on eth1"
	if got := rpc.HintOf(err); got != want {
		t.Errorf("hint = %q, want %q", got, want)
	}
}

func TestAMachineThatHasAnotherAddressIsReachedThere(t *testing.T) {
	t.Parallel()
	a := func(s ...string) (out []netip.Addr) {
		for _, s := range s {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	was := endpoint{"0.0.0.0:2377", "10.0.0.1:2377"}
	for _, tt := range []struct {
		name  string
		from  table
		was   endpoint
		via   string
		want  endpoint
		fault string
	}{
		{name: "the address is there", from: table{"eth0": a("10.0.0.1", "10.0.0.9")}, was: was, via: "eth0", want: was},
		{name: "it is on another interface now", from: table{"eth1": a("10.0.0.1")}, was: was, via: "eth0", want: was},
		{name: "its interface has another", from: table{"eth0": a("fd00::9", "10.0.0.9"), "eth1": a("10.1.0.1")}, was: was, via: "eth0",
			want: endpoint{"0.0.0.0:2377", "10.0.0.9:2377"}},
		{name: "what was listened at moves along", from: table{"eth0": a("10.0.0.9")}, was: endpoint{"10.0.0.1:3000", "10.0.0.1:4000"}, via: "eth0",
			want: endpoint{"10.0.0.9:3000", "10.0.0.9:4000"}},
		{name: "its interface is gone, one is left", from: table{"ens1": a("10.0.0.9")}, was: was, via: "eth0",
			want: endpoint{"0.0.0.0:2377", "10.0.0.9:2377"}},
		{name: "its interface is gone, several are left", from: table{"ens1": a("10.0.0.9"), "ens2": a("10.1.0.1")}, was: was, via: "eth0",
			want: was, fault: "10.0.0.1 is gone"},
		{name: "no interface is up yet", from: table{}, was: was, via: "eth0", want: was},
		{name: "the address never was the machine's", from: table{"eth0": a("10.0.0.9")}, was: was, want: was},
	} {
		got, err := moved(tt.from, tt.was, tt.via)
		if got != tt.want || (err == nil) != (tt.fault == "") || err != nil && !strings.Contains(err.Error(), tt.fault) {
			t.Errorf("%s: moved = %v, %v; want %v, %q", tt.name, got, err, tt.want, tt.fault)
		}
	}
}
