package bubble

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/backup"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// backup takes a backup through the host's daemon.
func (h *host) backup(stale bool) ([]byte, error) {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	stream, err := h.local().Backup(ctx, &localv1.BackupRequest{Stale: stale})
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		out.Write(m.GetData())
	}
}

func (h *host) mustBackup() []byte {
	h.c.t.Helper()
	data, err := h.backup(false)
	if err != nil {
		h.c.t.Fatalf("backup on %s: %v", h.name, err)
	}
	return data
}

// restore restores a backup on the host.
func (h *host) restore(data []byte, force bool) (*localv1.RestoreResponse, error) {
	ctx, stop := h.c.within(20 * time.Second)
	defer stop()
	stream, err := h.local().Restore(ctx)
	if err != nil {
		return nil, err
	}
	req := &localv1.RestoreRequest{Options: &localv1.RestoreOptions{AdvertiseAddr: h.addr, ListenAddr: h.addr, Force: force}}
	for part := range slices.Chunk(data, 1000) {
		req.Data = part
		if err := stream.Send(req); err != nil {
			break // the daemon says why
		}
		req = &localv1.RestoreRequest{}
	}
	return stream.CloseAndRecv()
}

func (h *host) mustRestore(data []byte, force bool) *localv1.RestoreResponse {
	h.c.t.Helper()
	resp, err := h.restore(data, force)
	if err != nil {
		h.c.t.Fatalf("restore on %s: %v", h.name, err)
	}
	h.id = mustID(h.c.t, resp.GetNode())
	return resp
}

// joinAgain joins a host that is a member already.
func (h *host) joinAgain(token string, via *host) (*localv1.JoinResponse, error) {
	ctx, stop := h.c.within(20 * time.Second)
	defer stop()
	return h.local().Join(ctx, &localv1.JoinRequest{Token: token, Remotes: []string{via.addr}})
}

func (h *host) mustJoinAgain(token string, via *host) {
	t := h.c.t
	t.Helper()
	resp, err := h.joinAgain(token, via)
	if err != nil {
		t.Fatalf("%s joins again: %v", h.name, err)
	}
	if !resp.GetReturned() || mustID(t, resp.GetNode()) != h.id {
		t.Errorf("%s is node %x (returned %v), want the one it was, %s", h.name, resp.GetNode(), resp.GetReturned(), h.id)
	}
}

// TestALostSwarmIsRestoredElsewhereAndNothingIsStoppedForOneLease is R1 for a
// backup: what agents run that the older state does not know stays for a lease.
func TestALostSwarmIsRestoredElsewhereAndNothingIsStoppedForOneLease(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		kept := ids(m.tasks("web", isRunning))
		data := m.mustBackup()

		m.mustRun("later", 2) // after the backup: the restored state does not know it
		newer := map[*host]int{}
		for _, w := range ws {
			newer[w] = len(w.containers.Running())
		}
		m.kill()
		time.Sleep(5 * time.Second)

		r := c.host("r1")
		resp := r.mustRestore(data, false)
		if resp.GetKeptIdentity() || resp.GetOthers() != 3 || resp.GetManifest().GetCounts().GetServices() != 1 {
			t.Errorf("restored: %v", resp)
		}
		var turned time.Time // the first of them
		for i, w := range ws {
			w.mustJoinAgain(resp.GetWorkerToken(), r)
			if i == 0 {
				turned = time.Now()
			}
		}
		c.throughout(time.Until(turned.Add(lease-200*time.Millisecond)), "every container where it was", func() bool {
			for _, w := range ws {
				if len(w.containers.Running()) != newer[w] {
					return false
				}
			}
			return true
		})
		c.until(5*time.Second, "what the restored state does not know stopped", func() bool {
			return len(ws[0].containers.Running())+len(ws[1].containers.Running()) == 4
		})
		t.Logf("stopped %v after the first agent turned to the restored history", time.Since(turned))
		c.until(5*time.Second, "all of the restored service running", func() bool { return len(r.tasks("web", isRunning)) == 4 })
		if after := ids(r.tasks("web", isRunning)); !slices.Equal(kept, after) {
			t.Errorf("tasks %v run, want those of the backup: %v", after, kept)
		}
		for _, w := range ws {
			for _, task := range w.containers.Tasks() {
				if got := w.containers.Starts(task); got != 1 {
					t.Errorf("%s: task %s was started %d times", w.name, task, got)
				}
			}
		}

		// They know the managers by themselves from now on.
		for _, w := range ws {
			w.shutdown()
			w.start()
		}
		c.until(10*time.Second, "the workers ready after their restart", func() bool {
			return r.state(ws[0]) == ready && r.state(ws[1]) == ready
		})
		r.mustRun("anew", 2)
		if got := r.state(m); got != down {
			t.Errorf("the lost manager's node is %v, want down", got)
		}
	})
}

func TestABackupIsTakenWhileWritesGoOn(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		var acked []string
		done := make(chan struct{})
		var writing sync.WaitGroup
		writing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-done:
					return
				default:
				}
				name := fmt.Sprintf("during%d", i)
				if _, err := ms[1].create(5*time.Second, replicated(name, 0)); err != nil {
					t.Errorf("write %s during backups: %v", name, err)
				}
				acked = append(acked, name)
				time.Sleep(time.Millisecond)
			}
		})
		var data []byte
		for range 10 {
			time.Sleep(20 * time.Millisecond)
			data = ms[2].mustBackup() // a follower's
			im, err := backup.Read(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if faults := im.Check(time.Now()); len(faults) > 0 {
				t.Fatalf("a backup under writes contradicts itself: %q", faults)
			}
		}
		close(done)
		writing.Wait()
		before := ms[0].mustBackup()
		for _, m := range ms {
			m.kill()
		}
		r := c.host("r1")
		r.mustRestore(before, false)
		ctx, stop := c.within(5 * time.Second)
		defer stop()
		got, err := r.control().ListServices(ctx, &controlv1.ListServicesRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(got.GetServices()) != len(acked) || len(acked) < 10 {
			t.Errorf("%d services restored, %d were acknowledged before the backup", len(got.GetServices()), len(acked))
		}
	})
}

func TestASwarmThatStillLivesIsRestoredByForceOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, nil)
		ms[0].ready(3)
		data := ms[0].mustBackup()
		ms[0].kill()
		r := c.host("r1")
		_, err := r.restore(data, false)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), ms[1].port()) || strings.Contains(err.Error(), ms[0].port()) {
			t.Errorf("restore beside a living swarm: %v", err)
		}
		resp := r.mustRestore(data, true)
		if len(resp.GetAnswered()) != 2 {
			t.Errorf("it says that %v answered, want two", resp.GetAnswered())
		}
	})
}

func TestAManagerThatLostItsLogStaysTheNodeItWasAndIsFoundByItself(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		was, before := m.id, ids(m.tasks("web", isRunning))
		data := m.mustBackup()
		time.Sleep(5 * time.Second) // a certificate's times are seconds
		m.kill()
		m.await()
		if err := os.RemoveAll(filepath.Join(m.disk, "state", "raft")); err != nil {
			t.Fatal(err)
		}
		m.start()
		if _, err := m.restore(data, false); !errdefs.IsFailedPrecondition(err) || !strings.Contains(rpc.HintOf(err), "--force-new-cluster") {
			t.Errorf("restore over a manager that may have a log: %v (hint %q)", err, rpc.HintOf(err))
		}
		resp := m.mustRestore(data, true)
		if !resp.GetKeptIdentity() || m.id != was || resp.GetOthers() != 2 {
			t.Errorf("restored as node %s (%v), was %s", m.id, resp, was)
		}
		c.until(10*time.Second, "the workers back by themselves", func() bool { return m.state(ws[0]) == ready && m.state(ws[1]) == ready })
		c.throughout(2*lease, "every task as it was", func() bool { return slices.Equal(ids(m.tasks("web", isRunning)), before) })
	})
}

// TestANodeWhoseCertificateIsNewerThanTheBackupComesBackByToken turns a worker to
// a manager and back after the backup: its certificate is of a history that is
// lost.
func TestANodeWhoseCertificateIsNewerThanTheBackupComesBackByToken(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		w := c.workers(1, m)[0]
		m.mustRun("web", 2)
		data := m.mustBackup()
		for _, role := range []modelv1.Role{asManager, asWorker} {
			if err := m.update(w, role, 0); err != nil {
				t.Fatal(err)
			}
			c.until(30*time.Second, "the worker turned", func() bool {
				n := m.nodes()["w1"]
				return n.GetNode().GetRole() == role && n.GetNode().GetCurrent().GetRole() == role && (n.GetManager() != nil) == (role == asManager)
			})
			time.Sleep(10 * time.Second)
		}
		m.kill()
		r := c.host("r1")
		resp := r.mustRestore(data, false)
		w.mustJoinAgain(resp.GetWorkerToken(), r)
		c.until(5*time.Second, "its tasks known to run", func() bool { return len(r.tasks("web", isRunning)) == 2 })
		if got := r.nodes()["w1"].GetNode().GetCurrent().GetGeneration(); got < 4 {
			t.Errorf("its certificate has generation %d, no more than one it had before", got)
		}
	})
}

func TestWhoIsInTouchWithItsManagersOrOfAnotherSwarmDoesNotJoinAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		w := c.workers(1, m)[0]
		other := c.host("other")
		other.init(nil)
		for via, why := range map[*host]string{m: "in touch with its managers", other: "of another swarm"} {
			ctx, stop := c.within(5 * time.Second)
			token, err := via.control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: asWorker})
			stop()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.joinAgain(token.GetToken(), via); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "already part of a swarm") {
				t.Errorf("a node %s joins: %v", why, err)
			}
		}
		if m.state(w) != ready {
			t.Errorf("the worker is %v after it was refused, want ready", m.state(w))
		}
	})
}

func TestABackupWithoutAQuorumIsTakenStaleOnly(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(2, nil)
		ms[0].ready(2)
		ms[1].kill()
		time.Sleep(3 * time.Second)
		began := time.Now()
		if _, err := ms[0].backup(false); !errdefs.IsUnavailable(err) || rpc.RefusalOf(err).GetNoQuorum() == nil || time.Since(began) > 3*time.Second {
			t.Errorf("a backup without a quorum: %v after %v", err, time.Since(began))
		}
		data, err := ms[0].backup(true)
		if err != nil {
			t.Fatal(err)
		}
		if im, err := backup.Read(bytes.NewReader(data)); err != nil || !im.Manifest.GetStale() {
			t.Errorf("a stale backup: %v, %v", im, err)
		}
		w := c.host("nobody")
		if _, err := w.backup(false); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a backup of no swarm: %v", err)
		}
		if _, err := w.restore(data[:len(data)-1], true); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("a damaged backup by force: %v", err)
		}
	})
}
