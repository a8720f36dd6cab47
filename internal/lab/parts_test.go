package lab

import (
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
)

func TestHierarchiesAreReadFromMountinfo(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]cgroup{
		"34 24 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory": {
			Mount: "/sys/fs/cgroup/memory", Kind: "cgroup", Options: "memory"},
		"36 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,xattr,cpu,cpuacct": {
			Mount: "/sys/fs/cgroup/cpu,cpuacct", Kind: "cgroup", Options: "cpu,cpuacct"},
		"38 24 0:31 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd": {
			Mount: "/sys/fs/cgroup/systemd", Kind: "cgroup", Options: "none,name=systemd"},
		"40 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate": {
			Mount: "/sys/fs/cgroup", Kind: "cgroup2"},
	} {
		if got, ok := parseCgroup(line); !ok || got != want {
			t.Errorf("parseCgroup(%q) = %+v, %v; want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{
		"24 1 0:22 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755",
		"34 24 0:29 / /mnt/memory rw,relatime - cgroup cgroup rw,memory",
		"nonsense",
	} {
		if got, ok := parseCgroup(line); ok {
			t.Errorf("parseCgroup(%q) = %+v; it is no hierarchy of the machine", line, got)
		}
	}
}

func TestOnlyLabsOfDeadOwnersAreOrphans(t *testing.T) {
	t.Parallel()
	living := ownName()
	reborn := fmt.Sprintf("%s%d-1-1", namePrefix, os.Getpid()) // the pid lives, but as another process
	for name, want := range map[string]bool{
		living: false, reborn: true, namePrefix + "2147483646-5-1": true,
		"": false, "eth0": false, namePrefix + "x-y-z": false, "skep-lab": false,
	} {
		if got := orphaned(name); got != want {
			t.Errorf("orphaned(%q) = %v, want %v", name, got, want)
		}
	}
	if len(shortID()+"h253") > 15 {
		t.Errorf("%q is too long to name links by", shortID())
	}
}

func TestLossIsWrittenAsOneTransaction(t *testing.T) {
	t.Parallel()
	got := dropTable(map[netip.Addr]int{
		netip.MustParseAddr("10.1.1.13"): 100, netip.MustParseAddr("10.1.1.12"): 25, netip.MustParseAddr("10.1.1.14"): 0,
	})
	_, rules, _ := strings.Cut(got, "policy accept; }; ")
	const want = "add rule ip skep_lab arrive ip saddr 10.1.1.12 numgen random mod 100 < 25 drop; " +
		"add rule ip skep_lab arrive ip saddr 10.1.1.13 drop; "
	if rules != want {
		t.Errorf("rules %q, want %q", rules, want)
	}
}

func TestSubnetsAreChecked(t *testing.T) {
	t.Parallel()
	for text, ok := range map[string]bool{"10.9.8.0/24": true, "10.9.8.7/24": true, "10.9.0.0/16": false, "fd00::/24": false} {
		got, err := pickSubnet(netip.MustParsePrefix(text))
		if (err == nil) != ok || ok && got.String() != "10.9.8.0/24" {
			t.Errorf("pickSubnet(%s) = %v, %v", text, got, err)
		}
	}
}
