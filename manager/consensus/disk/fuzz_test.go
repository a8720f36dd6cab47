package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// FuzzMeta reads what a log begins with, and FuzzStateName what a manifest calls a
// file: no name leads out of the directory.
func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseMeta(data); err == nil && m.GetFormat() != Format {
			t.Errorf("format %d is read", m.GetFormat())
		}
	})
}

func FuzzStateName(f *testing.F) {
	f.Add(StateName(1, 2))
	f.Add("../" + StateName(1, 2)[3:])
	f.Fuzz(func(t *testing.T, name string) {
		if stateName(name) && (strings.ContainsAny(name, "/\\") || len(name) != len(StateName(0, 0))) {
			t.Errorf("%q is the name of a state", name)
		}
	})
}

// A past is a directory as it was closed, and what was saved in it.
type past struct {
	names    []string // of files, from the directory
	files    map[string][]byte
	entries  []*raftpb.Entry
	states   []*raftpb.HardState
	snapshot *raftpb.Snapshot
	marked   uint64
}

// lived makes a directory in which entries were overwritten, a snapshot was taken and
// a mark was set.
func lived(t testing.TB) *past {
	t.Helper()
	dir, l := create(t)
	p := &past{files: map[string][]byte{}, states: []*raftpb.HardState{{}}, marked: 5}
	save := func(hs *raftpb.HardState, es []*raftpb.Entry) {
		mustSave(t, l, hs, es)
		p.entries, p.states = append(p.entries, es...), append(p.states, hs)
	}
	save(hard(1, 0), entries(1, 1, 4))
	save(hard(1, 4), entries(1, 5, 7))
	p.snapshot = snapshotAt(t, l, 1, 4, 300)
	save(hard(2, 5), entries(2, 6, 9)) // takes the place of 6 and 7
	if err := l.SetMark(&logv1.Mark{RaftId: meta().GetRaftId(), Term: 2, Committed: p.marked, Last: 9}); err != nil {
		t.Fatal(err)
	}
	save(hard(2, 8), nil)
	save(hard(2, 8), entries(2, 10, 12))
	mustClose(t, l)
	err := filepath.WalkDir(dir, func(at string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(at, ".tmp") {
			return err
		}
		data, err := os.ReadFile(at)
		name := strings.TrimPrefix(at, dir+"/")
		if strings.HasSuffix(name, ".wal") { // made of full length
			data = append(bytes.TrimRight(data, "\x00"), make([]byte, 512)...)
		}
		p.names, p.files[name] = append(p.names, name), data
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(p.names)
	return p
}

// segment is the number of the file that holds the log.
func (p *past) segment() int {
	return slices.IndexFunc(p.names, func(n string) bool { return strings.HasSuffix(n, ".wal") })
}

// lay makes the directory again, with other bytes in one of its files.
func (p *past) lay(t testing.TB, file string, data []byte) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "raft")
	for _, name := range p.names {
		text := p.files[name]
		if name == file {
			text = data
		}
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, text, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// foreign says what of a state was never saved; "" if all was.
func (p *past) foreign(st State) string {
	at := st.Snapshot.GetMetadata().GetIndex()
	if st.Snapshot != nil && !proto.Equal(st.Snapshot, p.snapshot) {
		return fmt.Sprintf("snapshot %v", st.Snapshot)
	}
	for _, e := range st.Entries {
		if at++; e.GetIndex() != at {
			return fmt.Sprintf("entry %d in the place of %d", e.GetIndex(), at)
		}
		if !slices.ContainsFunc(p.entries, func(x *raftpb.Entry) bool {
			return x.GetIndex() == e.GetIndex() && x.GetTerm() == e.GetTerm() && x.GetType() == e.GetType() && bytes.Equal(x.GetData(), e.GetData())
		}) {
			return fmt.Sprintf("entry %v", e)
		}
	}
	if !slices.ContainsFunc(p.states, func(x *raftpb.HardState) bool {
		return x.GetTerm() == st.HardState.GetTerm() && x.GetVote() == st.HardState.GetVote() && x.GetCommit() == st.HardState.GetCommit()
	}) {
		return fmt.Sprintf("hard state %v", st.HardState)
	}
	if at < st.HardState.GetCommit() {
		return fmt.Sprintf("commit index %d behind the end at %d", st.HardState.GetCommit(), at)
	}
	return ""
}

// changed is data with a patch at a byte, and nothing behind it if cut is set; the
// patch alone if that byte is behind the end.
func changed(data []byte, at uint32, patch []byte, cut bool) []byte {
	if uint64(at) > uint64(len(data)) {
		return patch
	}
	out := append(slices.Clone(data[:at]), patch...)
	if !cut && len(out) < len(data) {
		out = append(out, data[len(out):]...)
	}
	return out
}

// FuzzDirectory changes a file of a directory: segment, snapshot, state or mark. What
// is then read was saved, from its beginning on, or nothing is.
func FuzzDirectory(f *testing.F) {
	p := lived(f)
	for i, name := range p.names {
		size := uint32(len(p.files[name]))
		f.Add(uint8(i), uint32(0), []byte{}, true)
		f.Add(uint8(i), size/2, []byte{}, true)
		f.Add(uint8(i), size/2, []byte{0xff}, false)
		f.Add(uint8(i), size+1, []byte("noise"), false)
	}
	for _, at := range framesOf(p.files[p.names[p.segment()]]) {
		f.Add(uint8(p.segment()), uint32(at), []byte{0xff, 0xff}, false)
		f.Add(uint8(p.segment()), uint32(at+frameBytes+1), []byte{2}, false)
		f.Add(uint8(p.segment()), uint32(at+frameBytes+1), []byte{3, 16, 0}, false)
	}
	f.Fuzz(func(t *testing.T, file uint8, at uint32, patch []byte, cut bool) {
		name := p.names[int(file)%len(p.names)]
		l, st, err := Open(p.lay(t, name, changed(p.files[name], at, patch, cut)), quiet)
		if err != nil {
			return
		}
		defer mustClose(t, l)
		if what := p.foreign(st); what != "" {
			t.Errorf("%s, byte %d: %q (cut: %v): %s was read and never saved", name, at, patch, cut, what)
		}
	})
}

// TestARecordIsOfTheKindThatWasSaved: the kind of a record is not under its checksum,
// so one bit makes of a hard state an entry and of an entry a hard state.
func TestARecordIsOfTheKindThatWasSaved(t *testing.T) {
	t.Parallel()
	p := lived(t)
	name := p.names[p.segment()]
	all := framesOf(p.files[name])
	for i, at := range all[:len(all)-1] {
		if p.files[name][at+frameBytes] != 8 { // the kind's field
			t.Fatalf("record %d begins with another field than its kind", i)
		}
		for kind := range byte(7) {
			l, st, err := Open(p.lay(t, name, changed(p.files[name], uint32(at+frameBytes+1), []byte{kind}, false)), quiet)
			if err != nil {
				continue
			}
			if what := p.foreign(st); what != "" {
				t.Errorf("record %d of kind %d: %s was read and never saved", i, kind, what)
			}
			mustClose(t, l)
		}
	}
}

// FuzzReceiveState is sent a state file: what is not as its manifest says is refused.
func FuzzReceiveState(f *testing.F) {
	state := []byte("the state")
	sum := sha256.Sum256(state)
	f.Add(StateName(1, 2), uint64(len(state)), sum[:], state)
	f.Add(StateName(1, 2), ^uint64(0), sum[:], state)
	f.Add("../../../../../../../../../../../t.state", uint64(len(state)), sum[:], state)
	_, l := create(f)
	f.Cleanup(func() { mustClose(f, l) })
	f.Fuzz(func(t *testing.T, name string, size uint64, sum, data []byte) {
		err := l.ReceiveState(&logv1.Manifest{Format: 1, File: name, Size: size, Sha256: sum}, bytes.NewReader(data))
		own := sha256.Sum256(data)
		if err == nil && (!stateName(name) || size != uint64(len(data)) || !bytes.Equal(sum, own[:])) {
			t.Errorf("%q of %d bytes and sum %x was received: %x", name, size, sum, data)
		}
	})
}

// FuzzMark reads a mark: what was not written as one is refused.
func FuzzMark(f *testing.F) {
	f.Add([]byte{Format, 0, 0, 0, 0})
	f.Add(binary.BigEndian.AppendUint32([]byte{2}, 0))
	f.Add([]byte{})
	_, l := create(f)
	f.Cleanup(func() { mustClose(f, l) })
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(filepath.Join(l.path, markFile), data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := l.Mark()
		if err != nil {
			return
		}
		if err := l.SetMark(m); err != nil {
			t.Fatal(err)
		}
		if again, err := l.Mark(); err != nil || !proto.Equal(m, again) {
			t.Errorf("%x is read as %v, which is read again as %v, %v", data, m, again, err)
		}
	})
}
