package keystore_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// kept is a store with all that a manager keeps, and what that is.
func kept(t *testing.T, path string) (*keystore.Store, *keystore.Node, *logv1.Ring) {
	t.Helper()
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	me := newNode(t)
	ring := &logv1.Ring{Active: 1, Keys: []*logv1.RingKey{{Id: 1, Key: bytes.Repeat([]byte{0xab}, 32)}}}
	_, err = s.Pending()
	if err := errors.Join(err, s.Save(me), s.SaveRing(ring)); err != nil {
		t.Fatal(err)
	}
	return s, me, ring
}

// holds fails the test if the store does not give out what kept put in.
func holds(t *testing.T, s *keystore.Store, me *keystore.Node, ring *logv1.Ring) {
	t.Helper()
	got, err := s.Load()
	r, err2 := s.LoadRing()
	_, err3 := s.Pending()
	if err := errors.Join(err, err2, err3); err != nil {
		t.Fatalf("what was kept is not there: %v", err)
	}
	if !got.Key.Equal(me.Key) || !proto.Equal(r, ring) {
		t.Error("another key or ring than was kept")
	}
}

func TestALockedStoreOpensWithItsUnlockKeyOnly(t *testing.T) {
	t.Parallel()
	path, key := t.TempDir(), sealed.NewUnlockKey()
	s, me, ring := kept(t, path)
	before := s.KEK()
	if err := s.Relock(key, 1, nil); err != nil {
		t.Fatal(err)
	}
	if holds(t, s, me, ring); s.KEK().Equal(before) {
		t.Error("the key that lay in clear is still in use")
	}
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	n, since := s.Number()
	if !s.Locked() || n != 1 || since.IsZero() {
		t.Errorf("locked %v with key %d of %v, want to be locked with key 1", s.Locked(), n, since)
	}
	if cluster, node, err := s.Who(); err != nil || cluster.IsZero() || node.IsZero() {
		t.Errorf("a locked store does not say whose it is: %v", err)
	}
	_, err = s.Load()
	_, err2 := s.LoadRing()
	if err3 := s.Save(me); !errors.Is(err, keystore.ErrLocked) || !errors.Is(err2, keystore.ErrLocked) || !errors.Is(err3, keystore.ErrLocked) {
		t.Errorf("a locked store answers %v, %v, %v, want ErrLocked", err, err2, err3)
	}
	if err := s.Unlock(sealed.NewUnlockKey()); !errors.Is(err, keystore.ErrWrongUnlockKey) || !s.Locked() {
		t.Errorf("another unlock key gives %v", err)
	}
	if err := s.Unlock(key); err != nil {
		t.Fatal(err)
	}
	holds(t, s, me, ring)
	if err := s.Unlock(key); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("unlocking twice gives %v", err)
	}
}

func TestNoKeyInClearIsLeftOnTheDiskOfALockedStore(t *testing.T) {
	t.Parallel()
	path, key := t.TempDir(), sealed.NewUnlockKey()
	s, _, _ := kept(t, path)
	former := s.KEK()
	if err := s.Relock(key, 1, nil); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(path, "*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("found %q, %v", files, err)
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for what, secret := range map[string]sealed.Secret{"former key": former, "key": s.KEK(), "unlock key": key} {
			if bytes.Contains(data, secret.Reveal()) {
				t.Errorf("%s holds the %s in clear", filepath.Base(name), what)
			}
		}
		for _, place := range []string{"skep pending key v1", "skep ring v1"} {
			if _, err := sealed.Unwrap(former, data, []byte(place)); err == nil {
				t.Errorf("%s opens with the key that lay in clear", filepath.Base(name))
			}
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", name, info.Mode())
		}
	}
}

// TestARelockSurvivesALossOfPowerAtEveryWrite locks, changes the lock and unlocks,
// losing power at each write before and after it: the next start, with the new
// key or the old, finds everything and finishes, and the old key opens nothing.
func TestARelockSurvivesALossOfPowerAtEveryWrite(t *testing.T) {
	t.Parallel()
	first, second, none := sealed.NewUnlockKey(), sealed.NewUnlockKey(), sealed.Secret{}
	for _, tt := range []struct {
		name     string
		from, to sealed.Secret
		was, is  uint64
	}{
		{"autolock on", none, first, 0, 1}, {"rotation", first, second, 1, 2}, {"autolock off", first, none, 1, 2}, {"demotion", first, none, 1, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for step, over := 0, false; !over; step++ {
				for _, done := range []bool{false, true} {
					path := t.TempDir()
					s, me, ring := kept(t, path)
					if err := s.Relock(tt.from, tt.was, nil); err != nil {
						t.Fatal(err)
					}
					s.LosePowerAt(step, done)
					elsewhere := s.KEK()
					err := s.Relock(tt.to, tt.is, func(_, kek sealed.Secret) error { elsewhere = kek; return nil })
					if over = err == nil; !over && !errors.Is(err, keystore.ErrPower) {
						t.Fatal(err)
					}
					s = restarted(t, path, tt.to, tt.from, step == 0 && !done)
					holds(t, s, me, ring)
					if !elsewhere.Equal(s.KEK()) && !elsewhere.Equal(s.Former()) {
						t.Errorf("step %d, %v: what lies elsewhere opens with no key that is left", step, done)
					}
					if err := errors.Join(s.Settle(), s.Relock(tt.to, tt.is, nil)); err != nil || !s.LockedWith(tt.to, tt.is) {
						t.Fatalf("step %d, %v: not finished after the restart: %v", step, done, err)
					}
					holds(t, restarted(t, path, tt.to, tt.from, false), me, ring)
				}
				if step > 20 {
					t.Fatal("a relock never ends")
				}
			}
		})
	}
}

// TestADiskThatFailsInARelockLeavesNothingHalfDone: it is full, or answers with
// errors, from any write on, and the process lives. It loses nothing meanwhile, and
// finishes when the disk is well again, after which the former key opens nothing.
func TestADiskThatFailsInARelockLeavesNothingHalfDone(t *testing.T) {
	t.Parallel()
	first, second := sealed.NewUnlockKey(), sealed.NewUnlockKey()
	for step, over := 0, false; !over; step++ {
		for _, done := range []bool{false, true} { // an error of the last sync comes after the write
			path := t.TempDir()
			s, me, ring := kept(t, path)
			if err := s.Relock(first, 1, nil); err != nil {
				t.Fatal(err)
			}
			s.LosePowerAt(step, done)
			elsewhere := s.KEK()
			also := func(_, kek sealed.Secret) error { elsewhere = kek; return nil }
			err := s.Relock(second, 2, also)
			if over = err == nil; !over && s.LockedWith(second, 2) {
				t.Errorf("step %d, %v: it failed and is said to be done", step, done)
			}
			holds(t, s, me, ring)
			if !elsewhere.Equal(s.KEK()) && !elsewhere.Equal(s.Former()) {
				t.Errorf("step %d, %v: what lies elsewhere opens with no key that is left", step, done)
			}
			s.Heal()
			if err := s.Relock(second, 2, also); err != nil || !s.LockedWith(second, 2) || !elsewhere.Equal(s.KEK()) {
				t.Fatalf("step %d, %v: not finished on a disk that is well again: %v", step, done, err)
			}
			holds(t, s, me, ring)
			holds(t, restarted(t, path, second, first, false), me, ring)
		}
		if step > 20 {
			t.Fatal("a relock never ends")
		}
	}
}

// restarted opens the store at path anew. The key that is not the one it is locked
// with must not open it.
func restarted(t *testing.T, path string, now, other sealed.Secret, before bool) *keystore.Store {
	t.Helper()
	if before {
		now, other = other, now
	}
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Locked() == now.IsZero() {
		t.Fatalf("locked: %v, want %v", s.Locked(), !now.IsZero())
	}
	if !s.Locked() {
		return s
	}
	if err := s.Unlock(other); err == nil {
		t.Error("the other unlock key opens it too")
	}
	if err := s.Unlock(now); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestALockedStoreThatIsWipedIsANewOne(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, _, ring := kept(t, path)
	if err := s.Relock(sealed.NewUnlockKey(), 1, nil); err != nil {
		t.Fatal(err)
	}
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	s.LosePowerAt(0, false) // before the new key is there
	if err := s.Wipe(); !errors.Is(err, keystore.ErrPower) {
		t.Fatal(err)
	}
	if s, err = open(t, path); err != nil {
		t.Fatal(err)
	}
	if s.Locked() || s.SaveRing(ring) != nil {
		t.Error("what was wiped is still locked")
	}
}

func TestAKekFileOfTheFutureOrADamagedOneIsRefusedInWords(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"future": `{"format":9,"number":1,"sealed":"` + string(bytes.Repeat([]byte("A"), 64)) + `"}`, "cut": `{"format":1,"num`, "short": "abc",
	} {
		path := t.TempDir()
		if err := os.WriteFile(filepath.Join(path, "kek"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := open(t, path)
		if want := map[string]func(error) bool{"future": errdefs.IsNotImplemented}[name]; want != nil && !want(err) || err == nil || want == nil && !errdefs.IsDataLoss(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
