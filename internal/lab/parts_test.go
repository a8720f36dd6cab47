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

func TestTheVDSOIsFoundAmongTheMappings(t *testing.T) {
	t.Parallel()
	const list = "00400000-004b2000 r-xp 00000000 fe:00 123 /bin/ctl\n" +
		"7f9c76c41000-7f9c76c45000 r--p 00000000 00:00 0                          [vvar]\n" +
		"7f9c76c45000-7f9c76c47000 r-xp 00000000 00:00 0                          [vdso]\n"
	if from, to, err := findVDSO(list); err != nil || from != 0x7f9c76c45000 || to != 0x7f9c76c47000 {
		t.Errorf("findVDSO = %x, %x, %v", from, to, err)
	}
	for _, list := range []string{"", "nonsense [vdso]\n", "2000-1000 r-xp [vdso]\n", "0-ffffffffffffffff r-xp [vdso]\n"} {
		if from, to, err := findVDSO(list); err == nil {
			t.Errorf("findVDSO(%q) = %x, %x", list, from, to)
		}
	}
}

func TestAThreadStandsWhereTheKernelSays(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]uint64{
		"202 0x635960 0x80 0x0 0x0 0x0 0x0 0x30e4a8471e68 0x486a83\n": 0x486a83,
		"-1 0x7ffd00 0x7f9c76c45af0\n":                                0x7f9c76c45af0,
	} {
		if pc, still := standsAt(text); !still || pc != want {
			t.Errorf("standsAt(%q) = %x, %v; want %x", text, pc, still, want)
		}
	}
	for _, text := range []string{"running\n", "", "-1 0x1 there\n"} {
		if pc, still := standsAt(text); still {
			t.Errorf("standsAt(%q) = %x; it does not stand", text, pc)
		}
	}
}

// FuzzTheVDSOOfAProcess holds the reading of mappings and of the code to bounds.
func FuzzTheVDSOOfAProcess(f *testing.F) {
	f.Add("7f9c76c45000-7f9c76c47000 r-xp 00000000 00:00 0 [vdso]\n", []byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, list string, code []byte) {
		if from, to, err := findVDSO(list); err == nil && (from >= to || to-from > maxVDSO) {
			t.Errorf("findVDSO(%q) = %x, %x", list, from, to)
		}
		v := vdso{code: code}
		if entry, err := v.entry(); err == nil {
			if at, ok := v.stepped(entry); ok && at >= uint64(len(code)) {
				t.Errorf("stepped code at %d of %d", at, len(code))
			}
		}
		if at, err := v.room(); err == nil && at+uint64(len(steppedClock)) > uint64(len(code)) {
			t.Errorf("room at %d of %d", at, len(code))
		}
	})
}
