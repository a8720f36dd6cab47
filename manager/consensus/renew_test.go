package consensus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/sealed"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

// opens tries a ring on everything in dir that may be sealed: whatever begins as an
// entry does, at every length there could be, and every file that begins as a
// sealed one. It returns what opened.
func opens(t *testing.T, cfg Config, ring *sealed.Ring) (opened []string) {
	t.Helper()
	err := filepath.WalkDir(cfg.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".state") {
			if r, err := sealed.NewReader(bytes.NewReader(data), ring, cfg.place()); err == nil {
				if _, err := io.Copy(io.Discard, r); err == nil {
					opened = append(opened, filepath.Base(path))
				}
			}
		}
		head := []byte{8, EntryFormatByte, 16}
		for at := bytes.Index(data, head); at >= 0; {
			if box := boxAt(data[at:]); box != nil {
				if _, err := sealed.Open(ring, cfg.Cluster, cfg.History, box); err == nil {
					opened = append(opened, filepath.Base(path))
				}
			}
			next := bytes.Index(data[at+1:], head)
			if next < 0 {
				break
			}
			at += 1 + next
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// EntryFormatByte is how a sealed entry's format is encoded.
const EntryFormatByte = sealed.EntryFormat

// boxAt returns the sealed entry that data begins with, or nil: field by field, up
// to the box, which is the last.
func boxAt(data []byte) []byte {
	for n := 40; n < min(len(data), 4<<10); n++ {
		var s logv1.Sealed
		if proto.Unmarshal(data[:n], &s) == nil && len(s.GetBox()) > 0 {
			return data[:n]
		}
	}
	return nil
}

func TestAfterARenewalNoFileOpensWithTheFormerKey(t *testing.T) {
	t.Parallel()
	m := &ledger{}
	cfg := testConfig(t, m)
	former, err := sealed.RingFromProto(cfg.Ring.Proto())
	if err := errors.Join(err, Bootstrap(cfg, nil)); err != nil {
		t.Fatal(err)
	}
	r := mustOpen(t, cfg)
	stop := running(t, r)
	untilLeader(t, r)
	propose := func(n int) {
		for range n {
			if _, err := r.Propose(within(t, 10*time.Second), []byte("a line")); err != nil {
				t.Fatal(err)
			}
		}
	}
	propose(20)
	if n := len(opens(t, r.cfg, former)); n < 21 { // the entries and the first snapshot
		t.Fatalf("the former key opens %d things; the test does not see what it looks for", n)
	}
	key := make([]byte, sealed.KeyBytes)
	if err := r.Renew(within(t, 10*time.Second), 2); !errors.Is(err, ErrNotYet) {
		t.Errorf("renewed for a key that is not in use: %v", err)
	}
	if err := cfg.Ring.Add(2, sealed.NewSecret(key)); err != nil {
		t.Fatal(err)
	}
	cfg.Ring.Raise(2)
	propose(3)
	if err := r.Renew(within(t, 10*time.Second), 2); err != nil {
		t.Fatal(err)
	}
	if found := opens(t, r.cfg, former); len(found) > 0 {
		t.Errorf("the former key opens %q", found)
	}
	propose(3)
	if err := r.Renew(within(t, 10*time.Second), 2); err != nil { // again, with nothing to do
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Ring.Drop(func(uint32) bool { return false })
	again := &ledger{}
	cfg.Machine = again
	r = mustOpen(t, cfg)
	running(t, r)
	untilLeader(t, r)
	propose(1)
	if n := again.len(); n != 27 {
		t.Errorf("%d lines after a restart with the new key alone, want 27", n)
	}
}

// TestAnEntryUnderAKeyThatIsMissingWaitsForIt until it is brought; and a member whose
// active key is missing seals nothing under the one before.
func TestAnEntryUnderAKeyThatIsMissingWaitsForIt(t *testing.T) {
	t.Parallel()
	m := &ledger{}
	cfg := testConfig(t, m)
	if err := Bootstrap(cfg, nil); err != nil {
		t.Fatal(err)
	}
	if err := cfg.Ring.Add(2, sealed.NewSecret(bytes.Repeat([]byte{7}, sealed.KeyBytes))); err != nil {
		t.Fatal(err)
	}
	full := cfg.Ring.Proto()
	cfg.Ring.Raise(2)
	r := mustOpen(t, cfg)
	stop := running(t, r)
	untilLeader(t, r)
	if _, err := r.Propose(within(t, 10*time.Second), []byte("under key 2")); err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	less, err := sealed.RingFromProto(&logv1.Ring{Active: 1, Keys: full.GetKeys()[:1]})
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{}, 100)
	again := &ledger{}
	cfg.Ring, cfg.Machine = less, again
	cfg.MissingKey = func(context.Context) error {
		asked <- struct{}{}
		if len(asked) < 2 {
			return nil // nobody has it yet
		}
		return less.Add(2, sealed.NewSecret(full.GetKeys()[1].GetKey()))
	}
	r = mustOpen(t, cfg)
	less.Raise(2)
	running(t, r)
	untilLeader(t, r)
	if _, err := r.Propose(within(t, 10*time.Second), []byte("after it")); err != nil || again.len() != 2 {
		t.Errorf("%d lines, %v, want both", again.len(), err)
	}
	if len(asked) != 2 {
		t.Errorf("the key was asked for %d times, want 2", len(asked))
	}
}
