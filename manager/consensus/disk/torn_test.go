package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// TestMain makes the log's files small: they are copied often here.
func TestMain(m *testing.M) {
	wal.SegmentSizeBytes = 1 << 20
	m.Run()
}

// lastSegment returns the segment that is written now.
func lastSegment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatal(err, names)
	}
	return names[len(names)-1]
}

// cutAt makes dir's log end where it ended when n bytes were written, as a
// power cut does: zeros follow, since segments are made of full length.
func cutAt(t *testing.T, dir string, n int64) {
	t.Helper()
	name := lastSegment(t, dir)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, n); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, info.Size()); err != nil {
		t.Fatal(err)
	}
}

// written returns how many bytes of the segment are not zero at the end.
func written(t *testing.T, dir string) int64 {
	t.Helper()
	data, err := os.ReadFile(lastSegment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return int64(len(bytes.TrimRight(data, "\x00")))
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestEveryTornTailIsCutOffOrRefused(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	big := func(from, to uint64) []*raftpb.Entry {
		es := entries(1, from, to)
		for _, e := range es {
			e.Data = bytes.Repeat(e.GetData(), 70) // more than a sector
		}
		return es
	}
	mustSave(t, l, hard(1, 1), big(1, 3))
	synced := written(t, dir)
	mustSave(t, l, hard(1, 3), big(4, 9))
	end := written(t, dir)
	mustClose(t, l)
	const sector = 512 // disks write no less
	for n := (synced/sector - 3) * sector; n < end; n += sector {
		copied := copyDir(t, dir)
		cutAt(t, copied, n)
		l, st, err := Open(copied, quiet)
		switch {
		case err == nil && n >= synced:
			if len(st.Entries) < 3 || st.HardState.GetCommit() < 1 {
				t.Errorf("cut at %d of %d: %d entries, commit %d: what was synced is gone", n, end, len(st.Entries), st.HardState.GetCommit())
			}
		case err == nil:
			if got := uint64(len(st.Entries)); got < st.HardState.GetCommit() {
				t.Errorf("cut at %d of %d: ends at %d below commit %d", n, end, got, st.HardState.GetCommit())
			}
		case !errors.Is(err, ErrRolledBack) || n >= synced:
			t.Errorf("cut at %d of %d: %v", n, end, err)
		}
		if l != nil {
			mustClose(t, l)
		}
	}
}

// frameBytes is the length that stands before each record of a segment.
const frameBytes = 8

// frames returns where each record of the segment that is written now begins, and
// where the last one ends.
func frames(t *testing.T, dir string) []int64 {
	t.Helper()
	data, err := os.ReadFile(lastSegment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return framesOf(data)
}

// framesOf does the same for the bytes of a segment.
func framesOf(data []byte) (at []int64) {
	for n := int64(0); ; {
		at = append(at, n)
		length := binary.LittleEndian.Uint64(data[n:])
		if length == 0 {
			return at
		}
		n += frameBytes + int64(length&(1<<56-1)) + int64(length>>56&7)
	}
}

// A promise is what was saved when a segment was so long.
type promise struct {
	end          int64
	last, commit uint64
	marked       uint64 // the mark's commit index, 0 while there is none
}

// promises makes a log of saves of all sizes, with a mark now and then.
func promises(t *testing.T) (dir string, all []promise) {
	t.Helper()
	dir, l := create(t)
	p := promise{end: written(t, dir)}
	for save := range uint64(12) {
		es := entries(1, p.last+1, p.last+1+save%3)
		for i, e := range es {
			e.Data = bytes.Repeat(e.GetData(), 1+int(save)*i*20)
		}
		p.commit, p.last = p.last, p.last+uint64(len(es))
		mustSave(t, l, hard(1, p.commit), es)
		if p.end = written(t, dir); save == 3 || save == 7 {
			p.marked = p.commit
			if err := l.SetMark(&logv1.Mark{RaftId: 5, Term: 1, Committed: p.marked, Last: p.last}); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, p)
	}
	mustClose(t, l)
	return dir, all
}

// tears are how a segment may look from byte n on. What a disk has written of the
// record there ends at a sector; a file that was not made of full length may end
// anywhere.
var tears = map[string]func(t *testing.T, dir string, n, next int64){
	"zeros": func(t *testing.T, dir string, n, _ int64) { cutAt(t, dir, n) },
	"a sector of the record, and zeros": func(t *testing.T, dir string, n, next int64) {
		if sector := (n/512 + 1) * 512; sector < next {
			n = sector
		}
		cutAt(t, dir, n)
	},
	"nothing":             func(t *testing.T, dir string, n, _ int64) { endAt(t, dir, n) },
	"a part of a length":  func(t *testing.T, dir string, n, _ int64) { endAt(t, dir, n+3) },
	"half of the record":  func(t *testing.T, dir string, n, next int64) { endAt(t, dir, (n+next)/2) },
	"all but a last byte": func(t *testing.T, dir string, _, next int64) { endAt(t, dir, next-1) },
}

func endAt(t *testing.T, dir string, n int64) {
	t.Helper()
	if err := os.Truncate(lastSegment(t, dir), n); err != nil {
		t.Fatal(err)
	}
}

// TestATailTornAtAnyRecordLosesNothingThatWasSavedBefore: what is there is at the
// least what was saved before the tear, or the directory says that it must rejoin.
// It must say so if less is there than was marked, and may not if the tear is
// behind all that was saved.
func TestATailTornAtAnyRecordLosesNothingThatWasSavedBefore(t *testing.T) {
	t.Parallel()
	dir, all := promises(t)
	at := frames(t, dir)
	synced := all[len(all)-1]
	// One more save, that did not end.
	l, _ := mustOpen(t, dir)
	mustSave(t, l, hard(1, synced.last), entries(1, synced.last+1, synced.last+3))
	mustClose(t, l)
	at = append(at, frames(t, dir)[len(at):]...)
	for i, n := range at[:len(at)-1] {
		for name, tear := range tears {
			copied := copyDir(t, dir)
			tear(t, copied, n, at[i+1])
			torn(t, fmt.Sprintf("%s from record %d at byte %d", name, i, n), copied, n, all)
		}
	}
}

// torn opens a log that was torn at byte n, and writes to it.
func torn(t *testing.T, what, dir string, n int64, all []promise) {
	t.Helper()
	var before promise
	for _, p := range all {
		if p.end <= n {
			before = p
		}
	}
	synced := all[len(all)-1]
	l, st, err := Open(dir, quiet)
	if err != nil {
		if !errors.Is(err, ErrRolledBack) || n >= synced.end {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	last := uint64(len(st.Entries))
	if last < before.last || st.HardState.GetCommit() < before.commit || last < synced.marked {
		t.Errorf("%s: %d entries, commit %d; saved were %d and %d, marked %d", what, last, st.HardState.GetCommit(), before.last, before.commit, synced.marked)
	}
	mustSave(t, l, hard(2, last), []*raftpb.Entry{{Term: new(uint64(2)), Index: new(last + 1)}})
	mustClose(t, l)
	l, again, err := Open(dir, quiet)
	if err != nil {
		t.Errorf("%s, and written to: %v", what, err)
		return
	}
	mustClose(t, l)
	if uint64(len(again.Entries)) != last+1 || again.HardState.GetTerm() != 2 {
		t.Errorf("%s, and written to: %d entries, want %d", what, len(again.Entries), last+1)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "wal", "*.broken")); len(left) > 0 {
		t.Errorf("%s: the repair leaves %v", what, left)
	}
}
