package bubble

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue/cfssltest"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// cfssl has the real cfssl server of a root answer on a machine of its own.
func (c *cluster) cfssl(root cfssltest.Root, host string) *cfssltest.Server {
	c.t.Helper()
	return c.serve(root, host, root.Handler(c.t, shortLives))
}

func (c *cluster) serve(root cfssltest.Root, host string, h http.Handler) *cfssltest.Server {
	c.t.Helper()
	l, err := c.net.stack(host).listen(host + ":8888")
	if err != nil {
		c.t.Fatal(err)
	}
	return root.Serve(c.t, l, h)
}

// shortLives has workers renew every few minutes.
func shortLives(config string) string { return strings.ReplaceAll(config, "2160h", "30m") }

// keyOf is a root's key as ctl reads it, PKCS#8.
func keyOf(t *testing.T, r cfssltest.Root) []byte { return r.Secret(t).Reveal() }

// external is how the external CAs are, as a manager shows them.
func (h *host) external() map[string]*modelv1.ExternalHealth {
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	resp, err := h.control().GetCluster(ctx, &controlv1.GetClusterRequest{})
	if err != nil {
		return nil
	}
	out := make(map[string]*modelv1.ExternalHealth)
	for _, e := range resp.GetCluster().GetRoot().GetExternalHealth() {
		out[e.GetUrl()] = e
	}
	if len(resp.GetCluster().GetRoot().GetKey()) > 0 || slices.ContainsFunc(resp.GetCluster().GetRoot().GetExternal(), func(at *modelv1.ExternalCA) bool { return len(at.GetAuthKey()) > 0 }) {
		h.c.t.Error("a key is shown")
	}
	return out
}

func (h *host) mustRotate(req *controlv1.RotateRootRequest, all []*host) {
	h.c.t.Helper()
	root := req.GetCertificate()
	h.rotate(req)
	h.c.until(2*time.Minute, "the rotation's end", func() bool {
		return h.rotated(modelv1.RootOutcome_ROOT_OUTCOME_DONE) && bytes.Equal(h.root().GetCertificates()[0], root)
	})
	time.Sleep(10 * time.Second)
	h.c.onlyUnder(root, all...)
	h.ready(len(all))
}

// TestAnExternalCASigns: the swarm moves to it and lives on it, through its death and
// return, moves to another one, and back.
func TestAnExternalCASigns(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, &modelv1.ClusterSpec{CertExpiry: int64(30 * time.Minute)})
		all := append(slices.Clone(ms), c.workers(1, ms[0])...)
		ms[0].ready(4)
		v := ms[0].everywhere("every", 4)
		root := cfssltest.NewRoot(t, "outside")
		one, two := c.cfssl(root, "10.0.1.1"), c.cfssl(root, "10.0.1.2")
		ms[1].mustRotate(&controlv1.RotateRootRequest{Certificate: root.DER, External: []*modelv1.ExternalCA{one.At, two.At}}, all)

		// It signs whoever joins; the second does when the first is gone.
		all = append(all, c.worker("w2", ms[1]))
		one.Stop()
		all = append(all, c.worker("w3", ms[2]))
		c.until(time.Minute, "the first called failing", func() bool { return ms[2].external()[one.At.GetUrl()].GetFailing() })
		if h := ms[0].external()[two.At.GetUrl()]; h.GetFailing() || h.GetAnsweredAt() == 0 {
			t.Errorf("the second is %v", h)
		}

		// All dead: who joins is told; what runs runs on, for as long as certificates do.
		two.Stop()
		late := c.host("late")
		token, err := ms[0].control().GetJoinToken(t.Context(), &controlv1.GetJoinTokenRequest{Role: modelv1.Role_ROLE_WORKER})
		if err != nil {
			t.Fatal(err)
		}
		join := &localv1.JoinRequest{Token: token.GetToken(), Remotes: []string{ms[0].addr}, AdvertiseAddr: late.addr, ListenAddr: late.addr}
		if _, err := late.local().Join(t.Context(), join); err == nil || !strings.Contains(err.Error(), two.At.GetUrl()) || !strings.Contains(err.Error(), "external CA") {
			t.Errorf("a join without any: %v", err)
		}
		c.throughout(2*time.Minute, "all nodes ready", func() bool {
			return len(ms[0].nodes()) >= 6 && !slices.ContainsFunc(all, func(h *host) bool { return ms[0].state(h) == down })
		})

		// They come back, the same key gets in, and everybody has renewed when the first
		// certificates would have ended.
		two = c.cfssl(root, "10.0.1.2")
		c.until(2*time.Minute, "the second back", func() bool { h := ms[0].external()[two.At.GetUrl()]; return h != nil && !h.GetFailing() })
		resp, err := late.local().Join(t.Context(), join)
		if err != nil {
			t.Fatalf("the same join again: %v", err)
		}
		late.id = mustID(t, resp.GetNode())
		all = append(all, late)
		time.Sleep(30 * time.Minute)
		ms[0].ready(7)
		c.onlyUnder(root.DER, all...)
		if gaps := v.over(); len(gaps) > 0 {
			t.Errorf("nodes were not heard: %v", gaps)
		}
		c.settled(ms[0], all[3:]...)

		// The audit trail goes on, and its export proves itself by the root.
		if r, err := audit.Verify(bytes.NewReader(ms[1].export()), [][]byte{root.DER}); err != nil || len(r.Seal.Manager) == 0 {
			t.Errorf("the trail: %+v, %v", r, err)
		}
		ms[0].recorded("an external CA failing", func(r audit.Record) bool { return r.Did == "WatchExternalCA" })

		// To another one, which the former has certified, and back to a root in the swarm.
		next := cfssltest.NewRoot(t, "other")
		three := c.cfssl(next, "10.0.1.3")
		if err := ms[0].refusesRotation(&controlv1.RotateRootRequest{Certificate: next.DER, External: []*modelv1.ExternalCA{three.At}}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "--cross-cert") {
			t.Errorf("without a cross certificate: %v", err)
		}
		ms[0].mustRotate(&controlv1.RotateRootRequest{Certificate: next.DER, External: []*modelv1.ExternalCA{three.At}, Cross: root.Cross(t, next.DER)}, all)
		own := cfssltest.NewRoot(t, "own")
		ms[0].mustRotate(&controlv1.RotateRootRequest{Certificate: own.DER, Key: keyOf(t, own), Cross: next.Cross(t, own.DER)}, all)
		three.Stop()
		c.worker("w4", ms[0])
	})
}

// worker adds one through a manager.
func (c *cluster) worker(name string, via *host) *host {
	c.t.Helper()
	h := c.host(name)
	h.join(via, asWorker)
	return h
}

// settled fails unless the records of nodes say of their certificates what these say.
func (c *cluster) settled(at *host, nodes ...*host) {
	c.t.Helper()
	for _, h := range nodes {
		cred, _ := h.credential()
		r := at.nodes()[h.name].GetNode().GetCurrent()
		if !bytes.Equal(r.GetSerial(), cred.Leaf.SerialNumber.Bytes()) || r.GetNotAfter() != cred.Leaf.NotAfter.UnixNano() || r.GetGeneration() != cred.Identity.Generation {
			c.t.Errorf("%s has serial %x until %v; its record says %x until %v", h.name, cred.Leaf.SerialNumber.Bytes(), cred.Leaf.NotAfter, r.GetSerial(), time.Unix(0, r.GetNotAfter()))
		}
	}
}

// refusesRotation asks for a rotation that is to be refused.
func (h *host) refusesRotation(req *controlv1.RotateRootRequest) error {
	ctx, stop := h.c.within(30 * time.Second)
	defer stop()
	req.RequestId = requestID()
	_, err := h.control().RotateRoot(ctx, req)
	return err
}

// TestAnExternalCAIsTriedBeforeAnythingIsWritten: one that does otherwise than it is
// asked is named, and no rotation begins.
func TestAnExternalCAIsTriedBeforeAnythingIsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		root := cfssltest.NewRoot(t, "outside")
		for host, tt := range map[string]struct {
			configure func(string) string
			says      string
		}{
			"10.0.1.1": {func(s string) string {
				return strings.ReplaceAll(s, `"signing", "client auth"], "expiry": "8h"`, `"signing", "server auth", "client auth"], "expiry": "8h"`)
			}, `"client auth" alone`},
			"10.0.1.2": {func(s string) string { return strings.ReplaceAll(s, "168h", "169h") }, "168h0m0s was asked"},
			"10.0.1.3": {func(s string) string { return strings.ReplaceAll(s, cfssltest.KeyInConfig, strings.Repeat("0", 32)) }, "invalid token"},
			"10.0.1.4": {func(s string) string { return strings.ReplaceAll(s, "skep-worker", "other") }, "other uses"},
		} {
			at := c.serve(root, host, root.Handler(t, tt.configure)).At
			err := m.refusesRotation(&controlv1.RotateRootRequest{Certificate: root.DER, External: []*modelv1.ExternalCA{at}})
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), at.GetUrl()) {
				t.Errorf("%s: %v, want %q", host, err, tt.says)
			}
		}
		if v := m.root(); v.GetRotation() != nil || bytes.Equal(v.GetCertificates()[0], root.DER) {
			t.Error("a rotation was begun")
		}
	})
}

// TestASwarmBeginsWithAnExternalCA, or does not begin at all.
func TestASwarmBeginsWithAnExternalCA(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.host("m1")
		root, other := cfssltest.NewRoot(t, "outside"), cfssltest.NewRoot(t, "other")
		one := c.serve(root, "10.0.1.1", root.Handler(t, nil)).At
		q := &localv1.InitRequest{AdvertiseAddr: m.addr, ListenAddr: m.addr, Root: other.DER, External: []*modelv1.ExternalCA{one}}
		if _, err := m.local().Init(t.Context(), q); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), one.GetUrl()) {
			t.Errorf("with another root: %v", err)
		}
		q.Root = root.DER
		resp, err := m.local().Init(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		m.id = mustID(t, resp.GetNode())
		w := c.worker("w1", m)
		m.ready(2)
		c.onlyUnder(root.DER, m, w)
		c.settled(m, m, w)
		c.until(time.Minute, "it answering", func() bool { h := m.external()[one.GetUrl()]; return h != nil && !h.GetFailing() })
	})
}

// TestASwarmWithAnExternalCAIsRestored: the founder's certificate is signed there.
func TestASwarmWithAnExternalCAIsRestored(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(30 * time.Minute)})[0]
		root := cfssltest.NewRoot(t, "outside")
		one := c.cfssl(root, "10.0.1.1")
		m.mustRotate(&controlv1.RotateRootRequest{Certificate: root.DER, External: []*modelv1.ExternalCA{one.At}}, []*host{m})
		// In an hour the trail gets its checkpoint, by the manager's own key.
		time.Sleep(70 * time.Minute)
		if r, err := audit.Verify(bytes.NewReader(m.export()), [][]byte{root.DER}); err != nil || r.Checkpoints == 0 {
			t.Errorf("the trail: %+v, %v", r, err)
		}
		data := m.mustBackup()
		m.kill()
		m.await()
		other := c.host("other")
		other.mustRestore(data, false)
		c.until(time.Minute, "it leading", func() bool { return other.root() != nil })
		c.onlyUnder(root.DER, other)
		if cred, _ := other.credential(); !cred.SignedBy(ca.RootDigest(root.DER)) {
			t.Error("its certificate is of another root")
		}
	})
}
