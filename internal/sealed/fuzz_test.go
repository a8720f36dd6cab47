package sealed

import (
	"bytes"
	"crypto/rand"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// FuzzEntry opens what is not quite a sealed entry: it is refused, or it is the one
// that was sealed.
func FuzzEntry(f *testing.F) {
	ring, cluster, history := NewRing(), id.New(), id.New()
	sealer, err := NewTermSealer(ring, cluster, history, 7, 99, rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	entry := &logv1.Entry{Sequence: 3, Clock: 5, Transactions: [][]byte{[]byte("a"), []byte("b")}}
	data, err := sealer.Seal(entry)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-1])
	f.Add(append(slices.Clone(data), data...))
	f.Add(append(slices.Clone(data), 32, 8)) // another term
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = KeyOf(data)
		e, err := Open(ring, cluster, history, data)
		if err == nil && !proto.Equal(e, entry) {
			t.Errorf("%x opens as %v", data, e)
		}
	})
}

// FuzzFile reads a sealed file that was changed at a byte, or cut there: no byte comes
// out that was not sealed in this place, and the end only where it was.
func FuzzFile(f *testing.F) {
	ring, place := NewRing(), Place{Cluster: id.New(), History: id.New(), Purpose: "snapshot"}
	plain := bytes.Repeat([]byte("all that there is "), ChunkBytes/10)
	file := sealFile(f, ring, place, plain)
	size := uint32(len(file))
	for _, at := range []uint32{0, 7, 8, 12, HeaderBytes, HeaderBytes + ChunkBytes + overhead, size - 1, size} {
		f.Add(at, []byte{}, true)
		f.Add(at, []byte{0xff}, false)
	}
	f.Add(uint32(HeaderBytes), file[HeaderBytes+ChunkBytes+overhead:], true) // the second chunk as the first
	f.Fuzz(func(t *testing.T, at uint32, patch []byte, cut bool) {
		n := min(int(at), len(file))
		changed := append(slices.Clone(file[:n]), patch...)
		if !cut && len(changed) < len(file) {
			changed = append(changed, file[len(changed):]...)
		}
		got, err := readFile(ring, place, changed)
		if err == nil && !bytes.Equal(got, plain) || !bytes.HasPrefix(plain, got) {
			t.Errorf("changed at %d by %x (cut: %v): %d bytes come out, %v", at, patch, cut, len(got), err)
		}
	})
}
