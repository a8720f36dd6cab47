//go:build lab

package cluster

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/integration/stage"
	"github.com/skep-project/skep/internal/sealed"
)

// locked raises managers with autolock, each on a disk of its own.
func locked(t *testing.T, names ...string) *swarm {
	t.Helper()
	s := &swarm{stage.Bare(t, names...)}
	for _, name := range names {
		h := s.Hosts[name]
		if err := errors.Join(h.Disk(768<<20), h.Boot(s.Ctx), h.Daemon(s.Ctx)); err != nil {
			t.Fatal(err)
		}
		s.Until(name, "ctl info", "Swarm: inactive")
	}
	s.Must(names[0], "ctl swarm init --autolock", "SKEPKEY-1-")
	for _, name := range names[1:] {
		s.join(name, "manager", names[0])
	}
	s.allLockedAnew(names[0])
	return s
}

// voting is row of a manager that is heard, and may lead.
func voting(host string) string { return row(host) + ` | grep -E ' (Reachable|Leader) '` }

// unlockKey is the swarm's unlock key.
func (s *swarm) unlockKey(host string) string {
	s.Helper()
	return strings.TrimSpace(s.Must(host, "ctl swarm unlock-key -q"))
}

// allLockedAnew waits until no manager opens with a former key.
func (s *swarm) allLockedAnew(host string) {
	s.Helper()
	s.Until(host, `ctl swarm unlock-key >/tmp/out 2>&1; grep -q 'still open with a former key' /tmp/out || echo all of them`, "all of them")
}

// dark pulls a host's plug.
func (s *swarm) dark(host string) {
	s.Helper()
	if err := s.Hosts[host].Kill(); err != nil {
		s.Fatal(err)
	}
}

// boots gives it power, and waits until it says that it is locked.
func (s *swarm) boots(host string) {
	s.Helper()
	if err := errors.Join(s.Hosts[host].Boot(s.Ctx), s.Hosts[host].Daemon(s.Ctx)); err != nil {
		s.Fatal(err)
	}
	s.Until(host, "ctl info", "Swarm: locked")
}

// unlock gives a host a key, and returns whether that unlocked it.
func (s *swarm) unlock(host, key string) bool {
	s.Helper()
	return s.Run(host, "echo "+key+" | ctl swarm unlock").Code == 0
}

// opensWith returns the files of a dark host in which something opens with an unlock
// key: a key-encryption key, or two, under it (docs/disk-formats.md).
func (s *swarm) opensWith(host, key string) (names []string) {
	s.Helper()
	unlock, err := sealed.ParseUnlockKey(sealed.NewSecret([]byte(key)))
	if err != nil {
		s.Fatal(err)
	}
	dir, searched := filepath.Join(s.Hosts[host].Dir(), "state"), 0
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(path, filepath.Join(dir, "containerd")) {
			return err // containerd knows no key
		}
		data, err := os.ReadFile(path)
		if searched++; holdsSealed(data, unlock) {
			names = append(names, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil || searched < 6 {
		s.Fatalf("searched %d files of %s: %v", searched, host, err)
	}
	return names
}

var base64Words = regexp.MustCompile(`[A-Za-z0-9+/]{60,}={0,2}`)

// holdsSealed reports whether key-encryption keys lie in data sealed under an unlock
// key, as bytes or in base 64.
func holdsSealed(data []byte, unlock sealed.Secret) bool {
	const overhead = 1 + 16 + 12 + 16 // format, salt, nonce, tag
	opens := func(box []byte) bool {
		for number := uint64(0); number < 5; number++ {
			place := binary.BigEndian.AppendUint64([]byte("skep locked kek v1"), number)
			if _, err := sealed.Unwrap(unlock, box, place); err == nil {
				return true
			}
		}
		return false
	}
	for _, word := range base64Words.FindAll(data, -1) {
		if box, err := base64.StdEncoding.DecodeString(string(word)); err == nil && opens(box) {
			return true
		}
	}
	for at := 0; at < len(data); at++ {
		next := bytes.IndexByte(data[at:], 1) // a box begins with its format
		if next < 0 {
			return false
		}
		at += next
		for _, size := range []int{overhead + 32, overhead + 64} {
			if at+size <= len(data) && opens(data[at:at+size]) {
				return true
			}
		}
	}
	return false
}

// TestThreeLockedManagersAreRebootedAndARotatedKeyOpensNothing: one after the other,
// and then all at once, after the unlock key was rotated; each file of each disk is
// searched for what opens with the former one.
func TestThreeLockedManagersAreRebootedAndARotatedKeyOpensNothing(t *testing.T) {
	names := []string{"m1", "m2", "m3"}
	s := locked(t, names...)
	former := s.unlockKey("m1")
	for i, name := range names {
		other := names[(i+1)%len(names)]
		s.dark(name)
		s.boots(name)
		if !s.unlock(name, former) {
			t.Fatalf("%s does not open", name)
		}
		s.Until(other, voting(name), "Ready Active")
	}
	s.Until("m1", "ctl swarm unlock-key --rotate", "Successfully rotated manager unlock key.")
	next := s.unlockKey("m1")
	s.allLockedAnew("m1")
	for _, name := range names {
		s.dark(name)
	}
	for _, name := range names {
		if found := s.opensWith(name, former); len(found) > 0 {
			t.Errorf("%s: the former key opens something in %q", name, found)
		}
		if found := s.opensWith(name, next); len(found) != 1 || found[0] != "/keys/kek" {
			t.Errorf("%s: the key opens something in %q, want in /keys/kek alone", name, found)
		}
	}
	for _, name := range names {
		s.boots(name)
		if s.unlock(name, former) {
			t.Errorf("%s opens with the former key", name)
		}
		if !s.unlock(name, next) {
			t.Fatalf("%s does not open", name)
		}
	}
	for _, name := range names {
		s.Until("m2", voting(name), "Ready Active")
	}
}

// TestAManagerWhoseDiskIsFullDuringARotationOpensWithOneKeyAndThenTheOther: it is
// told of as long as it is behind, opens with the former key if its host reboots then,
// and takes the new one when there is room.
func TestAManagerWhoseDiskIsFullDuringARotationOpensWithOneKeyAndThenTheOther(t *testing.T) {
	s := locked(t, "m1", "m2", "m3")
	former := s.unlockKey("m1")
	if err := s.Hosts["m3"].FillDisk(0); err != nil {
		t.Fatal(err)
	}
	s.Until("m1", "ctl swarm unlock-key --rotate", "Successfully rotated manager unlock key.")
	next := s.unlockKey("m1")
	s.Until("m1", "ctl swarm unlock-key 2>&1", "these managers still open with a former key, until they have heard of this one: m3")
	s.dark("m3")
	if found := s.opensWith("m3", former); len(found) != 1 || found[0] != "/keys/kek" {
		t.Errorf("with its disk full the former key opens something in %q, want in /keys/kek alone", found)
	}
	s.boots("m3")
	if s.unlock("m3", next) {
		t.Error("it opens with a key that it cannot have got")
	}
	if !s.unlock("m3", former) {
		t.Fatal("it does not open with the former key")
	}
	if err := s.Hosts["m3"].EmptyDisk(); err != nil {
		t.Fatal(err)
	}
	s.allLockedAnew("m1")
	s.Until("m1", voting("m3"), "Ready Active")
	s.dark("m3")
	if found := s.opensWith("m3", former); len(found) > 0 {
		t.Errorf("the former key opens something in %q", found)
	}
	s.boots("m3")
	if s.unlock("m3", former) || !s.unlock("m3", next) {
		t.Error("it does not open with the new key, or with the former one too")
	}
}

// TestAManagerWhoseDiskBreaksDuringARotationOpensWithOneOfTheKeys: every read and
// write fails from some moment of the rotation on, and what was not synced is lost.
// When the disk is well again one of the two keys opens it, and the new one alone
// after it has heard of that.
func TestAManagerWhoseDiskBreaksDuringARotationOpensWithOneOfTheKeys(t *testing.T) {
	s := locked(t, "m1", "m2", "m3")
	for _, after := range []time.Duration{20 * time.Millisecond, 60 * time.Millisecond, 150 * time.Millisecond} {
		former := s.unlockKey("m1")
		s.background("m1", "rotated", "ctl swarm unlock-key --rotate")
		<-time.After(after)
		if err := s.Hosts["m3"].BreakDisk(); err != nil {
			t.Fatal(err)
		}
		s.Until("m1", "cat /tmp/rotated.end", "exit 0")
		s.Must("m1", "rm /tmp/rotated.end")
		next := s.unlockKey("m1")
		s.dark("m3")
		if err := s.Hosts["m3"].RepairDisk(); err != nil {
			t.Fatal(err)
		}
		early, late := s.opensWith("m3", former), s.opensWith("m3", next)
		t.Logf("broken %v after the request, the former key opens something in %q and the new one in %q", after, early, late)
		// kek is written twice, the second time without the means to read what was sealed
		// before, and each time lies beside itself, sealed under the new key, until it is
		// given its name.
		const kek, beside = "/keys/kek", "/keys/kek.new"
		if !slices.ContainsFunc([]struct{ former, next []string }{
			{former: []string{kek}}, {former: []string{kek}, next: []string{beside}}, {next: []string{kek}}, {next: []string{kek, beside}},
		}, func(may struct{ former, next []string }) bool {
			return slices.Equal(early, may.former) && slices.Equal(late, may.next)
		}) {
			t.Error("want one of them to open kek, and besides the new one alone what was to follow that, if there is such")
		}
		s.boots("m3")
		if _, err := os.Stat(filepath.Join(s.Hosts["m3"].Dir(), "state", "keys", "kek.new")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what was never given its name is still there: %v", err)
		}
		if s.unlock("m3", former) != (len(early) == 1) || len(early) == 0 && !s.unlock("m3", next) {
			t.Fatal("it does not open with that key")
		}
		s.allLockedAnew("m1")
		s.Until("m1", voting("m3"), "Ready Active")
	}
}
