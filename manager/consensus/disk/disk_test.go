package disk

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

var quiet = slog.New(slog.DiscardHandler)

func meta() *logv1.WALMetadata {
	return &logv1.WALMetadata{Format: Format, Cluster: make([]byte, 16), History: make([]byte, 16), Node: make([]byte, 16), RaftId: 5}
}

func create(t testing.TB) (string, *Log) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "raft")
	l, err := Create(dir, meta())
	if err != nil {
		t.Fatal(err)
	}
	return dir, l
}

func entries(term uint64, from, to uint64) []*raftpb.Entry {
	var out []*raftpb.Entry
	for i := from; i <= to; i++ {
		out = append(out, &raftpb.Entry{Term: new(term), Index: new(i), Data: []byte(fmt.Sprint("entry ", term, " ", i))})
	}
	return out
}

func hard(term, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: new(term), Vote: new(uint64(5)), Commit: new(commit)}
}

func mustSave(t testing.TB, l *Log, hs *raftpb.HardState, es []*raftpb.Entry) {
	t.Helper()
	if err := l.Save(hs, es); err != nil {
		t.Fatal(err)
	}
}

// snapshotAt saves a snapshot whose state is size random bytes.
func snapshotAt(t testing.TB, l *Log, term, index uint64, size int) *raftpb.Snapshot {
	t.Helper()
	state := make([]byte, size)
	_, _ = rand.Read(state)
	m := &logv1.Manifest{Format: 1, File: StateName(term, index)}
	sum, err := l.WriteState(m.GetFile(), func(w io.Writer) error { _, err := w.Write(state); return err })
	if err != nil {
		t.Fatal(err)
	}
	m.Size, m.Sha256 = sum.Size, sum.SHA256
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	s := &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{Index: &index, Term: &term, ConfState: &raftpb.ConfState{Voters: []uint64{5}}}}
	if err := l.SaveSnapshot(s); err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, l *Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func mustOpen(t *testing.T, dir string) (*Log, State) {
	t.Helper()
	l, st, err := Open(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, st
}

func TestWhatWasSavedIsFoundAgain(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	mustSave(t, l, hard(1, 0), entries(1, 1, 10))
	mustSave(t, l, hard(2, 4), entries(2, 5, 7)) // takes the place of 5 to 10
	mustSave(t, l, hard(2, 6), nil)
	mustClose(t, l)
	_, st := mustOpen(t, dir)
	if len(st.Entries) != 7 || st.Entries[6].GetTerm() != 2 || st.HardState.GetCommit() != 6 || st.Meta.GetRaftId() != 5 || st.Snapshot != nil {
		t.Errorf("found %d entries, %v, %v", len(st.Entries), st.HardState, st.Meta)
	}
}

func TestASnapshotThatWasReceivedSurvivesAKill(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	mustSave(t, l, hard(1, 0), nil)
	snapshotAt(t, l, 1, 247, 100) // the leader's: no entries, and a commit index that jumps
	mustSave(t, l, hard(1, 247), nil)

	killed := filepath.Join(t.TempDir(), "raft") // what the kernel has, without the process's last words
	if err := os.CopyFS(killed, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	_, st := mustOpen(t, killed)
	if st.Snapshot.GetMetadata().GetIndex() != 247 || st.HardState.GetCommit() != 247 {
		t.Errorf("found snapshot %d and commit index %d, want what was answered for: 247",
			st.Snapshot.GetMetadata().GetIndex(), st.HardState.GetCommit())
	}
	mustClose(t, l)
}

func TestOneProcessHoldsALog(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	if _, _, err := Open(dir, quiet); err == nil {
		t.Error("a log in use was opened again")
	}
	mustClose(t, l)
	mustOpen(t, dir)
}

func TestSnapshotsAndReleaseKeepWhatIsNeeded(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	for i := uint64(1); i <= 4; i++ {
		mustSave(t, l, hard(1, i*10), entries(1, i*10-9, i*10))
		snapshotAt(t, l, 1, i*10, 1000)
		if err := l.Release(0); err != nil {
			t.Fatal(err)
		}
	}
	mustSave(t, l, hard(1, 41), entries(1, 41, 45))
	mustClose(t, l)
	names, err := os.ReadDir(filepath.Join(dir, "snap"))
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != 4 {
		t.Errorf("%d files in snap, want the two newest snapshots with their states: %v", len(names), names)
	}
	l2, st := mustOpen(t, dir)
	if st.Snapshot.GetMetadata().GetIndex() != 40 || len(st.Entries) != 5 {
		t.Errorf("found snapshot %d and %d entries, want 40 and 5", st.Snapshot.GetMetadata().GetIndex(), len(st.Entries))
	}
	mustClose(t, l2)

	// The newest state is damaged: the one before it serves.
	if err := os.WriteFile(filepath.Join(dir, "snap", StateName(1, 40)), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, st = mustOpen(t, dir)
	if st.Snapshot.GetMetadata().GetIndex() != 30 || len(st.Entries) != 15 {
		t.Errorf("found snapshot %d and %d entries, want 30 and 15", st.Snapshot.GetMetadata().GetIndex(), len(st.Entries))
	}
}

func TestReceivedStateIsHeldAgainstItsManifest(t *testing.T) {
	t.Parallel()
	_, l := create(t)
	defer mustClose(t, l)
	state := []byte("the state")
	m := &logv1.Manifest{File: StateName(1, 2), Size: uint64(len(state)), Sha256: bytes.Repeat([]byte{1}, 32)}
	if err := l.ReceiveState(m, bytes.NewReader(state)); err == nil {
		t.Error("a state with another hash was taken")
	}
	if _, err := l.OpenState(m); err == nil {
		t.Error("a refused state is there")
	}
	for _, name := range []string{"../../etc/passwd", "x", "", strings.Repeat("a", 39)} {
		if err := l.ReceiveState(&logv1.Manifest{File: name}, bytes.NewReader(nil)); err == nil {
			t.Errorf("file name %q was taken", name)
		}
	}
}

func TestNobodyElseReadsALog(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	mustSave(t, l, hard(1, 2), entries(1, 1, 2))
	snapshotAt(t, l, 1, 2, 100)
	if err := l.SetMark(&logv1.Mark{RaftId: 5, Committed: 2}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestADirectoryFromThePastSaysSo(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	mustSave(t, l, hard(1, 3), entries(1, 1, 3))
	if err := l.SetMark(&logv1.Mark{RaftId: 5, Term: 1, Committed: 3, Last: 3}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	past := copyDir(t, dir)

	l, _ = mustOpen(t, dir)
	mustSave(t, l, hard(2, 9), entries(2, 4, 9))
	if err := l.SetMark(&logv1.Mark{RaftId: 5, Term: 2, Committed: 9, Last: 9}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)

	// The log of the past beside the mark of today.
	if err := os.RemoveAll(filepath.Join(dir, "wal")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(past, "wal"), filepath.Join(dir, "wal")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, quiet); !errors.Is(err, ErrRolledBack) || !strings.Contains(err.Error(), "must rejoin") {
		t.Errorf("open: %v, want ErrRolledBack", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "mark"), []byte("noise"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(dir, quiet); !errors.Is(err, ErrRolledBack) {
		t.Errorf("a corrupt mark: %v, want ErrRolledBack", err)
	}
}

func TestAFormatOfTheFutureIsRefusedInWords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	future := meta()
	future.Format = Format + 1
	l, err := Create(dir, future)
	if err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	if _, _, err := Open(dir, quiet); err == nil || !strings.Contains(err.Error(), "format 2, this version knows 1") {
		t.Errorf("open: %v", err)
	}
}

func TestALogThatFailedIsWrittenNoMoreAndReadAgain(t *testing.T) {
	t.Parallel()
	dir, l := create(t)
	mustSave(t, l, hard(1, 3), entries(1, 1, 3))
	broken := errors.New("no space")
	_ = l.fail(broken) // as a write that failed does
	if err := l.Save(hard(1, 4), entries(1, 4, 4)); !errors.Is(err, broken) {
		t.Errorf("save after a failure: %v, want the failure", err)
	}
	mustClose(t, l)
	l, st := mustOpen(t, dir)
	if len(st.Entries) != 3 {
		t.Errorf("%d entries, want the 3 that were saved", len(st.Entries))
	}
	mustSave(t, l, hard(1, 4), entries(1, 4, 4))
}
