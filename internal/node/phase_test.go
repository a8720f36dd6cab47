package node

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/sealed"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// TestANodeSaysFromTheStartThatItIsLocked: it answers before it has begun to live.
func TestANodeSaysFromTheStartThatItIsLocked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	phase := func() localv1.State {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		n := &Node{}
		if n.keys, err = keystore.Open(root); err != nil {
			t.Fatal(err)
		}
		if err := n.keys.Relock(sealed.NewUnlockKey(), 1, nil); err != nil && !n.keys.Locked() {
			t.Fatal(err)
		}
		return n.firstPhase()
	}
	if got := phase(); got != localv1.State_STATE_INACTIVE {
		t.Errorf("in no swarm it is %v", got)
	}
	// A store without an identity keeps nothing for anyone, and is made anew.
	if _ = phase(); os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{}"), 0o600) != nil {
		t.Fatal("no identity could be written")
	}
	if got := phase(); got != localv1.State_STATE_LOCKED {
		t.Errorf("started again it is %v, want locked", got)
	}
}
