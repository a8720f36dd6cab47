package bubble

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// unlockKey is the swarm's unlock key, as a manager shows it.
func (h *host) unlockKey() *controlv1.GetUnlockKeyResponse {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().GetUnlockKey(ctx, &controlv1.GetUnlockKeyRequest{})
	if err != nil {
		h.c.t.Fatalf("unlock key at %s: %v", h.name, err)
	}
	return resp
}

// rotateUnlockKey draws another one.
func (h *host) rotateUnlockKey() string {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().RotateUnlockKey(ctx, &controlv1.RotateUnlockKeyRequest{RequestId: requestID()})
	if err != nil {
		h.c.t.Fatalf("rotate the unlock key at %s: %v", h.name, err)
	}
	return resp.GetUnlockKey()
}

// unlock gives the host's daemon a key.
func (h *host) unlock(key string) error {
	ctx, stop := h.c.within(20 * time.Second)
	defer stop()
	_, err := h.local().Unlock(ctx, &localv1.UnlockRequest{UnlockKey: key})
	return err
}

func (h *host) mustUnlock(key string) {
	h.c.t.Helper()
	if err := h.unlock(key); err != nil {
		h.c.t.Fatalf("unlock %s: %v", h.name, err)
	}
}

// info is what the host's daemon says of itself.
func (h *host) info() *localv1.InfoResponse {
	h.c.t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.local().Info(ctx, &localv1.InfoRequest{})
	if err != nil {
		h.c.t.Fatalf("info at %s: %v", h.name, err)
	}
	return resp
}

// record is the cluster's record, without its secrets.
func (h *host) record() *modelv1.Cluster {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().GetCluster(ctx, &controlv1.GetClusterRequest{})
	if err != nil {
		return nil
	}
	return resp.GetCluster()
}

// autolock turns it on or off.
func (h *host) autolock(on bool) {
	h.c.t.Helper()
	spec := h.record().GetSpec()
	spec.Autolock = on
	h.set(spec)
}

// boxes counts, for each data key, what is sealed under it in the files of a host:
// an entry begins with format, number and length of the salt, a file with its magic.
func (h *host) boxes() map[uint32]int {
	h.c.t.Helper()
	found := map[uint32]int{}
	err := filepath.WalkDir(filepath.Join(h.disk, "state", "raft"), func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil // no manager
		}
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		for key := uint32(1); key < 20; key++ {
			found[key] += bytes.Count(data, []byte{8, 1, 16, byte(key), 26, 16})
			found[key] += bytes.Count(data, append([]byte("skepbox\x01"), binary.BigEndian.AppendUint32(nil, key)...))
		}
		return err
	})
	if err != nil {
		h.c.t.Fatal(err)
	}
	return found
}

// underOnly reports whether all that lies on the host is sealed under key.
func (h *host) underOnly(key uint32) bool {
	found := h.boxes()
	for k, n := range found {
		if k != key && n > 0 {
			return false
		}
	}
	return found[key] > 0
}

// settledOn reports whether every manager says that nothing of it opens with a key
// before this one, and that none is under way.
func (h *host) settledOn(key uint32, managers int) bool {
	c := h.record()
	clean := 0
	for _, k := range c.GetKeyHolders() {
		if k.GetClean() == key {
			clean++
		}
	}
	return c.GetDataKey().GetActive() == key && c.GetDataKey().GetSettled() && c.GetDataKey().GetOffered() == 0 && clean == managers && len(c.GetKeyHolders()) == managers
}

// TestALockedManagerWaitsForItsKeyAndComesBack is the story of autolock.
func TestALockedManagerWaitsForItsKeyAndComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, &modelv1.ClusterSpec{Autolock: true})
		ctx, stop := c.within(10 * time.Second)
		defer stop()
		anywhere := template("image")
		anywhere.Placement = nil
		if _, err := ms[0].control().CreateService(ctx, &controlv1.CreateServiceRequest{RequestId: requestID(), Spec: replicated("web", 3), Template: anywhere}); err != nil {
			t.Fatal(err)
		}
		c.until(10*time.Second, "every manager runs a task", func() bool { return len(ms[2].containers.Running()) == 1 })
		key := ms[0].unlockKey()
		c.until(5*time.Second, "all are locked with the first key", func() bool { return len(ms[1].unlockKey().GetBehind()) == 0 })

		last := ms[2]
		running := len(last.containers.Running())
		last.kill()
		last.start()
		if i := last.info(); i.GetState() != localv1.State_STATE_LOCKED || mustID(t, i.GetNode()) != last.id || i.GetLockNumber() != key.GetNumber() {
			t.Fatalf("a locked manager says %v", i)
		}
		ctx, stop = c.within(10 * time.Second)
		defer stop()
		_, err := last.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
		if err == nil || !strings.Contains(err.Error(), "this manager is locked") || !strings.Contains(rpc.RefusalOf(err).GetHint(), "ctl swarm unlock") {
			t.Errorf("a locked manager answers %v", err)
		}
		if _, err := last.local().Leave(ctx, &localv1.LeaveRequest{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a locked manager leaves with %v", err)
		}
		_, err = last.local().Init(ctx, &localv1.InitRequest{ForceNewCluster: true})
		if err == nil || !strings.Contains(err.Error(), "this manager is locked") {
			t.Errorf("a locked manager founds a new cluster: %v", err)
		}
		time.Sleep(30 * time.Second)
		if n := len(last.containers.Running()); n != running {
			t.Errorf("%d containers run on a locked manager, %d did", n, running)
		}
		if err := last.unlock(ms[0].rotatedText(key.GetUnlockKey())); !errdefs.IsInvalidArgument(err) {
			t.Errorf("a mistyped key gives %v", err)
		}
		last.mustUnlock(key.GetUnlockKey())
		c.until(20*time.Second, "it is a manager again", func() bool {
			return last.info().GetState() == localv1.State_STATE_ACTIVE && len(last.info().GetUnreachableManagers()) == 0 && last.record() != nil
		})
		if err := last.unlock(key.GetUnlockKey()); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("unlocking it again gives %v", err)
		}
	})
}

// rotatedText is a key with two letters exchanged.
func (h *host) rotatedText(key string) string {
	b := []byte(key)
	for i := len(b) - 1; i > 0; i-- {
		if b[i] != b[i-1] {
			b[i], b[i-1] = b[i-1], b[i]
			break
		}
	}
	return string(b)
}

// TestAManagerThatWasDownDuringARotationOpensWithTheFormerKey, and then with the new
// one only.
func TestAManagerThatWasDownDuringARotationOpensWithTheFormerKey(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, &modelv1.ClusterSpec{Autolock: true})
		former := ms[0].unlockKey().GetUnlockKey()
		last := ms[2]
		last.kill()
		next := ms[0].rotateUnlockKey()
		c.until(5*time.Second, "only the one that is down is behind", func() bool {
			return fmt.Sprint(ms[0].unlockKey().GetBehind()) == fmt.Sprint([]string{last.name})
		})
		last.start()
		err := last.unlock(next)
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "unlock key number 1") || !strings.Contains(rpc.RefusalOf(err).GetHint(), "the one from before") {
			t.Errorf("the new key gives %v", err)
		}
		last.mustUnlock(former)
		c.until(20*time.Second, "it has taken the new key", func() bool { return len(ms[0].unlockKey().GetBehind()) == 0 })
		for _, m := range ms {
			m.kill()
		}
		for _, m := range ms {
			m.start()
			if err := m.unlock(former); !errdefs.IsPermissionDenied(err) {
				t.Errorf("the former key still opens %s: %v", m.name, err)
			}
			m.mustUnlock(next)
		}
		c.until(20*time.Second, "the swarm is back", func() bool { return ms[1].record() != nil })
	})
}

// TestADemotedManagersKeyOpensNothingAfterwards: the data key is replaced while
// writes go on, on every manager's disk, and the worker's disk needs no key.
func TestADemotedManagersKeyOpensNothingAfterwards(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, &modelv1.ClusterSpec{Autolock: true})
		c.workers(1, ms[0])
		ms[0].mustRun("web", 3)
		for _, m := range ms {
			if !m.underOnly(1) {
				t.Fatalf("%s: sealed under %v, want key 1", m.name, m.boxes())
			}
		}
		last := ms[2]
		if err := ms[0].update(last, asWorker, 0); err != nil {
			t.Fatal(err)
		}
		c.until(30*time.Second, "key 2 is in use and key 1 is gone", func() bool {
			_ = ms[0].update(ms[1], 0, modelv1.Availability(1+time.Now().UnixMilli()/20%2)) // entries go on
			return ms[0].settledOn(2, 2)
		})
		for _, m := range ms[:2] {
			if !m.underOnly(2) {
				t.Errorf("%s: sealed under %v, want key 2 only", m.name, m.boxes())
			}
		}
		c.until(10*time.Second, "the worker is not locked", func() bool { return last.info().GetLockNumber() == 0 })
		last.kill()
		last.start()
		if last.info().GetState() == localv1.State_STATE_INACTIVE {
			t.Error("a member that starts says that it is in no swarm")
		}
		c.until(10*time.Second, "it starts without a key", func() bool { return last.info().GetState() == localv1.State_STATE_ACTIVE })
		if _, err := os.Stat(filepath.Join(last.disk, "state", "keys", "ring")); !os.IsNotExist(err) {
			t.Errorf("a worker keeps data keys: %v", err)
		}
		key := ms[0].unlockKey().GetUnlockKey()
		ms[1].kill()
		ms[1].start()
		ms[1].mustUnlock(key)
		c.until(20*time.Second, "a manager restarts from what was written anew", func() bool { return ms[1].record() != nil })
	})
}

// TestAManagerThatWasAwayFinishesARotation: autolock is turned on while one is down,
// whose own key lies in clear. When it is back it gets the keys, locks itself, and
// writes its disk anew.
func TestAManagerThatWasAwayFinishesARotation(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		c.workers(1, ms[0])
		ms[0].mustRun("web", 3)
		last := ms[2]
		last.kill()
		ms[0].autolock(true)
		c.until(30*time.Second, "those that are up have replaced the key", func() bool { return ms[0].underOnly(2) && ms[1].underOnly(2) })
		if ms[0].settledOn(2, 3) || !last.underOnly(1) {
			t.Error("the one that is down is said to be done")
		}
		last.start()
		c.until(30*time.Second, "the third has caught up", func() bool { return ms[0].settledOn(2, 3) && last.underOnly(2) })
		if n := last.info().GetLockNumber(); n != 1 {
			t.Errorf("it is locked with key %d, want 1", n)
		}
		last.kill()
		last.start()
		last.mustUnlock(ms[0].unlockKey().GetUnlockKey())
		c.until(20*time.Second, "it restarts", func() bool { return last.record() != nil })
	})
}

// TestARotationIsFinishedWhoeverDiesInIt kills the leader at moments of a rotation.
func TestARotationIsFinishedWhoeverDiesInIt(t *testing.T) {
	for _, after := range []time.Duration{0, 5, 20, 100} {
		t.Run(fmt.Sprint(int64(after), " ms"), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				c.workers(1, ms[0])
				ms[0].mustRun("web", 2)
				leader := ms[0]
				leader.autolock(true)
				key := leader.unlockKey().GetUnlockKey()
				time.Sleep(after * time.Millisecond)
				leader.kill()
				time.Sleep(3 * time.Second)
				leader.start()
				if leader.info().GetState() == localv1.State_STATE_LOCKED {
					leader.mustUnlock(key)
				}
				c.until(60*time.Second, "the rotation has ended", func() bool {
					active := ms[1].record().GetDataKey().GetActive()
					if active < 2 || !ms[1].settledOn(active, 3) {
						return false
					}
					return ms[0].underOnly(active) && ms[1].underOnly(active) && ms[2].underOnly(active)
				})
				c.until(10*time.Second, "all are locked", func() bool { return len(ms[0].unlockKey().GetBehind()) == 0 })
			})
		})
	}
}
