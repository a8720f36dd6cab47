package consensus

import (
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// FuzzManifest reads what a snapshot says of its state.
func FuzzManifest(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := ParseManifest(&raftpb.Snapshot{Data: data}); err == nil && m.GetFormat() != ManifestFormat {
			t.Errorf("format %d is read", m.GetFormat())
		}
	})
}
