package disk

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// aged is a log with three snapshots, overwritten entries and entries behind the
// newest snapshot, which it returns.
func aged(t *testing.T) (string, *Log, *raftpb.Snapshot) {
	t.Helper()
	dir, l := create(t)
	mustSave(t, l, hard(1, 0), entries(1, 1, 10))
	mustSave(t, l, hard(1, 6), nil)
	snapshotAt(t, l, 1, 4, 100)
	snapshotAt(t, l, 1, 6, 100)
	mustSave(t, l, hard(2, 6), entries(2, 8, 14)) // takes the place of 8 to 10
	mustSave(t, l, hard(2, 11), nil)
	s := snapshotAt(t, l, 2, 10, 100)
	mustSave(t, l, hard(2, 12), nil)
	return dir, l, s
}

// told are the texts of entries that no longer are in a log, as they stand in the
// files of a directory.
func told(t *testing.T, dir string, texts ...string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for _, x := range texts {
			if bytes.Contains(data, []byte(x)) {
				found = append(found, x+" in "+filepath.Base(path))
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestARenewedLogHoldsWhatItHeldAndNothingOlder(t *testing.T) {
	t.Parallel()
	dir, l, s := aged(t)
	old := []string{"entry 1 1", "entry 1 7", "entry 1 9", "entry 2 10"} // the last is of the snapshot
	if len(told(t, dir, old...)) != len(old) {
		t.Fatal("the test does not see what it looks for")
	}
	if err := l.Renew(s); err != nil {
		t.Fatal(err)
	}
	if found := told(t, dir, old...); len(found) > 0 {
		t.Errorf("still there: %q", found)
	}
	mustSave(t, l, hard(2, 14), entries(2, 15, 16)) // it is written on
	snapshotAt(t, l, 2, 12, 10)
	mustSave(t, l, hard(2, 16), nil)
	if err := l.Release(0); err != nil {
		t.Fatal(err)
	}
	mustClose(t, l)
	_, st := mustOpen(t, dir)
	if n := len(st.Entries); st.Snapshot.GetMetadata().GetIndex() != 12 || n != 4 || st.Entries[n-1].GetIndex() != 16 ||
		st.HardState.GetCommit() != 16 || st.HardState.GetVote() != 5 || st.Meta.GetRaftId() != 5 {
		t.Errorf("found snapshot %d, %d entries, %v", st.Snapshot.GetMetadata().GetIndex(), n, st.HardState)
	}
}

var errGone = errors.New("the disk is gone")

// lostAt has the disk of a log be lost after a step, and returns where a copy of what was
// on it then will be. seen are the steps that there were.
func lostAt(t *testing.T, dir string, l *Log, step string, seen *[]string) (killed string) {
	t.Helper()
	killed = filepath.Join(t.TempDir(), "raft")
	l.pace = func(at string) error {
		if !slices.Contains(*seen, at) {
			*seen = append(*seen, at)
		}
		if at != step {
			return nil
		}
		return errors.Join(os.CopyFS(killed, os.DirFS(dir)), errGone)
	}
	return killed
}

// TestARenewalSurvivesACrashAtEveryStep kills the process, and has the disk fail,
// after each step.
func TestARenewalSurvivesACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	steps := []string{"created", "built", "closed", "exchanged", "swept"}
	var seen []string
	for _, step := range steps {
		dir, l, s := aged(t)
		killed := lostAt(t, dir, l, step, &seen)
		err := l.Renew(s)
		if !errors.Is(err, errGone) {
			t.Fatalf("%s: %v", step, err)
		}
		early := step == "created" || step == "built"
		if err := l.Save(hard(2, 14), nil); (err == nil) != (early || step == "swept") {
			t.Errorf("%s: writing on gives %v", step, err)
		}
		mustClose(t, l)
		for how, at := range map[string]string{"killed": killed, "failed": dir} {
			again, st := mustOpen(t, at)
			if n := len(st.Entries); st.Snapshot.GetMetadata().GetIndex() != 10 || n != 4 || st.Entries[n-1].GetIndex() != 14 || st.HardState.GetCommit() < 12 {
				t.Errorf("%s, %s: found snapshot %d, %d entries, %v", step, how, st.Snapshot.GetMetadata().GetIndex(), n, st.HardState)
			}
			if left, _ := filepath.Glob(filepath.Join(at, newWAL+"*")); len(left) > 0 {
				t.Errorf("%s, %s: left behind: %q", step, how, left)
			}
			if err := again.Renew(st.Snapshot); err != nil {
				t.Errorf("%s, %s: the next renewal: %v", step, how, err)
			}
			if found := told(t, at, "entry 1 1", "entry 1 9"); len(found) > 0 {
				t.Errorf("%s, %s: still there: %q", step, how, found)
			}
		}
	}
	if !slices.Equal(seen, steps) {
		t.Errorf("the steps are %s, tried %s", strings.Join(seen, " "), strings.Join(steps, " "))
	}
}

// deposed is the log of a member that led, and whose last entries nobody else has.
func deposed(t *testing.T, term uint64) (string, *Log) {
	t.Helper()
	dir, l := create(t)
	mustSave(t, l, hard(1, 0), entries(1, 1, 8))
	mustSave(t, l, hard(1, 6), nil)
	mustSave(t, l, hard(term, 6), entries(term, 9, 14))
	return dir, l
}

// sent is a snapshot of the others' log, whose state file is there.
func sent(t *testing.T, l *Log, term, index uint64) *raftpb.Snapshot {
	t.Helper()
	state := []byte("the state of others")
	m := &logv1.Manifest{Format: 1, File: StateName(term, index), Size: uint64(len(state))}
	sum := sha256.Sum256(state)
	m.Sha256 = sum[:]
	if err := l.ReceiveState(m, bytes.NewReader(state)); err != nil {
		t.Fatal(err)
	}
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return &raftpb.Snapshot{Data: data, Metadata: &raftpb.SnapshotMetadata{
		Index: new(index), Term: new(term), ConfState: &raftpb.ConfState{Voters: []uint64{5}},
	}}
}

// TestASnapshotThatWasSentTakesTheLogsPlace: entries behind it are of a past that did not
// come true. A member that read them on after a restart would hold a log that there
// never was, and vote by it.
func TestASnapshotThatWasSentTakesTheLogsPlace(t *testing.T) {
	t.Parallel()
	for name, stale := range map[string]uint64{"of an older term": 2, "of a younger term": 7} {
		dir, l := deposed(t, stale)
		if err := l.Install(sent(t, l, 5, 11)); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		l, st := mustOpen(t, dir)
		if len(st.Entries) > 0 || st.Snapshot.GetMetadata().GetIndex() != 11 || st.HardState.GetCommit() != 11 ||
			st.HardState.GetTerm() != max(stale, 5) || st.Meta.GetRaftId() != 5 {
			t.Errorf("%s: found snapshot %d, %v, entries %v", name, st.Snapshot.GetMetadata().GetIndex(), st.HardState, st.Entries)
		}
		if voted := st.HardState.GetVote(); (voted == 5) != (stale > 5) {
			t.Errorf("%s: the vote of term %d is %d", name, st.HardState.GetTerm(), voted)
		}
		mustSave(t, l, hard(8, 12), entries(8, 12, 13)) // it is written on
		snapshotAt(t, l, 8, 12, 10)
		mustSave(t, l, hard(8, 13), nil)
		if err := l.Release(0); err != nil {
			t.Fatal(err)
		}
		mustClose(t, l)
		_, st = mustOpen(t, dir)
		if n := len(st.Entries); n != 1 || st.Entries[0].GetIndex() != 13 || st.HardState.GetCommit() != 13 {
			t.Errorf("%s: written on, found %v and entries %v", name, st.HardState, st.Entries)
		}
	}
}

// TestAnInstallationSurvivesACrashAtEveryStep: the log is the old one, whole, or the
// snapshot and nothing else.
func TestAnInstallationSurvivesACrashAtEveryStep(t *testing.T) {
	t.Parallel()
	steps := []string{"saved", "created", "built", "closed", "exchanged", "swept"}
	var seen []string
	for _, step := range steps {
		dir, l := deposed(t, 2)
		s := sent(t, l, 5, 11)
		killed := lostAt(t, dir, l, step, &seen)
		if err := l.Install(s); !errors.Is(err, errGone) {
			t.Fatalf("%s: %v", step, err)
		}
		if err := l.Save(hard(5, 11), nil); err == nil {
			t.Errorf("%s: it is written on after an error", step)
		}
		mustClose(t, l)
		before := !slices.Contains(steps[4:], step)
		for how, at := range map[string]string{"killed": killed, "failed": dir} {
			again, st := mustOpen(t, at)
			switch n := len(st.Entries); {
			case before && (st.Snapshot != nil || n != 14 || st.Entries[n-1].GetTerm() != 2 || st.HardState.GetCommit() != 6):
				t.Errorf("%s, %s: found snapshot %v, %d entries, %v, want the old log", step, how, st.Snapshot, n, st.HardState)
			case !before && (st.Snapshot.GetMetadata().GetIndex() != 11 || n != 0 || st.HardState.GetCommit() != 11):
				t.Errorf("%s, %s: found snapshot %v, %d entries, %v, want the snapshot alone", step, how, st.Snapshot, n, st.HardState)
			}
			if before { // it is sent again
				if err := again.Install(sent(t, again, 5, 11)); err != nil {
					t.Errorf("%s, %s: the next one: %v", step, how, err)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(at, newWAL+"*")); len(left) > 0 {
				t.Errorf("%s, %s: left behind: %q", step, how, left)
			}
		}
	}
	if !slices.Equal(seen, steps) {
		t.Errorf("the steps are %s, tried %s", strings.Join(seen, " "), strings.Join(steps, " "))
	}
}
