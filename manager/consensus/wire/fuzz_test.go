package wire

import "testing"

// FuzzDecode reads what a peer sends as a message of raft: whoever is known is not
// taken for another.
func FuzzDecode(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add([]byte{8, 0, 16, 2, 24, 1}, uint64(1))
	f.Fuzz(func(t *testing.T, data []byte, from uint64) {
		m, err := decode(data, from)
		if err == nil && from != 0 && m.GetFrom() != from {
			t.Errorf("a message of %x is taken from %x", m.GetFrom(), from)
		}
	})
}
