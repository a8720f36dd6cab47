package bubble

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// image copies the state on a host's disk, whose daemon is off.
func (h *host) image() string {
	h.c.t.Helper()
	dir := filepath.Join(h.c.t.TempDir(), "state")
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(h.disk, "state"))); err != nil {
		h.c.t.Fatal(err)
	}
	return dir
}

// load puts an image in the place of the state on a host's disk, whose daemon is off.
func (h *host) load(image string) {
	h.c.t.Helper()
	state := filepath.Join(h.disk, "state")
	if err := os.RemoveAll(state); err != nil {
		h.c.t.Fatal(err)
	}
	if err := os.CopyFS(state, os.DirFS(image)); err != nil {
		h.c.t.Fatal(err)
	}
}

func TestAClonedHostIsFoundAndGetsNoTasksUntilTheCloneIsGone(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		w := c.workers(2, m)[0]
		m.ready(3)
		w.shutdown()
		image := w.image()
		w.start()
		clone := c.host("clone")
		clone.shutdown()
		clone.load(image)
		clone.start()
		status := func() *modelv1.NodeStatus {
			resp, err := m.control().GetNode(t.Context(), &controlv1.GetNodeRequest{Ref: w.id.String()})
			if err != nil {
				t.Fatal(err)
			}
			return resp.GetNode().GetNode().GetStatus()
		}
		if n := len(m.nodes()); n != 3 {
			t.Fatalf("%d nodes, want the clone to be no other node", n)
		}
		took := c.until(time.Minute, "the clone is found", func() bool {
			return len(status().GetTwinBoot()) > 0
		})
		t.Logf("found after %v", took)
		for _, h := range []*host{w, clone} {
			c.until(10*time.Second, "both are named", func() bool { return strings.Contains(status().GetMessage(), h.addr+" (boot ") })
		}
		index := m.info().GetApplied()
		time.Sleep(time.Minute)
		if n := m.info().GetApplied() - index; n > 10 {
			t.Errorf("%d entries were written in a minute because two machines fight", n)
		}
		m.mustRun("web", 3)
		if n := len(m.tasks("web", func(v *taskView) bool { return string(v.GetTask().GetNode()) == string(w.id.Bytes()) })); n > 0 {
			t.Errorf("%d tasks were given to the node of two machines", n)
		}
		clone.kill()
		c.until(15*time.Minute, "the clone is forgotten", func() bool {
			s := status()
			return s.GetState() == ready && len(s.GetTwinBoot()) == 0 && s.GetMessage() == ""
		})
	})
}

func TestAHostRestoredFromAnOldImageIsToldSoAndComesBackWhenItIsAccepted(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(10 * time.Minute)})[0]
		w := c.workers(1, m)[0]
		m.ready(2)
		w.shutdown()
		image := w.image()
		w.start()
		time.Sleep(20 * time.Minute)
		if g := identityOf(t, w).Generation; g < 3 {
			t.Fatalf("generation %d, want two renewals", g)
		}
		w.shutdown()
		w.load(image)
		w.boot()
		w.start()
		c.until(time.Minute, "it is told why", func() bool {
			_, words := w.says()
			return strings.Contains(words, "waits for an operator to accept it")
		})
		if n := m.pending(); n != 1 {
			t.Errorf("%d nodes wait", n)
		}
		if reason := m.nodes()[w.name].GetNode().GetWait().GetReason(); !strings.Contains(reason, "restored from an older image") {
			t.Errorf("the operator is told %q", reason)
		}
		if _, err := m.control().AcceptNode(t.Context(), &controlv1.AcceptNodeRequest{RequestId: requestID(), Ref: w.id.String()}); err != nil {
			t.Fatal(err)
		}
		c.until(time.Minute, "it is back", func() bool { return m.state(w) == ready })
		if who := identityOf(t, w); who.Node != w.id {
			t.Errorf("it is node %s, was %s", who.Node, w.id)
		}
	})
}
