package bubble

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestCertificatesAreRenewedForHoursAndNobodyIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		const life = 10 * time.Minute
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(life), ManagerCertExpiry: int64(life)})[0]
		ws := c.workers(2, m)
		m.mustRun("web", 4)
		m.ready(3)
		before := ids(m.tasks("web", every))
		blips := 0
		for began := time.Now(); time.Since(began) < 2*time.Hour; time.Sleep(beat) {
			for name, v := range m.nodes() {
				if s := v.GetNode().GetStatus().GetState(); s != ready {
					blips++
					t.Logf("after %v: %s is %v: %s", time.Since(began), name, s, v.GetNode().GetStatus().GetMessage())
				}
			}
		}
		if blips > 0 {
			t.Errorf("a node was not ready %d times", blips)
		}
		if after := ids(m.tasks("web", every)); !slices.Equal(before, after) {
			t.Errorf("tasks %v, want %v as ever", after, before)
		}
		for _, h := range append(ws, m) {
			me, _ := h.identity()
			cred, err := me.Credential()
			if err != nil {
				t.Fatal(err)
			}
			if g := cred.Identity.Generation; g < 2*6 || cred.Identity.NotAfter.Before(time.Now()) {
				t.Errorf("%s has generation %d until %v", h.name, g, cred.Identity.NotAfter)
			}
		}
		for _, h := range append(ws, m) {
			t.Logf("%s opened %d sessions", h.name, len(slices.DeleteFunc(c.log.since(c.log.began, "session opened"), func(r record) bool { return r.host != h.name })))
		}
	})
}

// A vigil is a watch of a service with a task on each node. It notes every word
// of a node that is not heard, however short.
type vigil struct {
	c    *cluster
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex // guards the fields below
	changes int
	gaps    []string
}

// everywhere runs a global service and keeps vigil over its tasks' nodes.
func (h *host) everywhere(name string, nodes int) *vigil {
	t := h.c.t
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	tpl := template("app:1")
	tpl.Placement = nil
	_, err := h.control().CreateService(ctx, &controlv1.CreateServiceRequest{
		RequestId: requestID(), Template: tpl,
		Spec: &modelv1.ServiceSpec{Name: name, Mode: &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	h.c.until(10*time.Second, "a task on each node", func() bool { return len(h.tasks(name, isRunning)) == nodes })
	stream, err := h.control().WatchService(ctx, &controlv1.WatchServiceRequest{Ref: name})
	if err != nil {
		t.Fatal(err)
	}
	v := &vigil{c: h.c, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			v.note(m)
		}
	}()
	return v
}

func (v *vigil) note(m *controlv1.WatchServiceResponse) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.changes++
	for _, task := range m.GetTasks() {
		if task.GetUnknownSince() != 0 {
			v.gaps = append(v.gaps, task.GetNodeName()+" at "+time.Since(v.c.log.began).String())
		}
	}
}

// over ends the vigil and returns the gaps it saw. It must have seen something.
func (v *vigil) over() []string {
	v.c.t.Helper()
	v.stop()
	<-v.done
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.changes < 2 {
		v.c.t.Errorf("the watch told %d times, want each change of a node", v.changes)
	}
	return v.gaps
}

// identityOf is who the certificate on a host's disk says it is.
func identityOf(t *testing.T, h *host) ca.Identity {
	t.Helper()
	me, _ := h.identity()
	cred, err := me.Credential()
	if err != nil {
		t.Fatal(err)
	}
	return cred.Identity
}

// sessionsOf counts the sessions that a host has opened after a moment: one of that
// moment was there.
func (j *journal) sessionsOf(h *host, since time.Time) int {
	return len(slices.DeleteFunc(j.since(since, "session opened"), func(r record) bool { return r.host != h.name || r.at.Equal(since) }))
}

func TestARenewalMovesTheSessionWithoutAGap(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		const life = 10 * time.Minute
		ms := c.managers(3, &modelv1.ClusterSpec{CertExpiry: int64(life), ManagerCertExpiry: int64(life)})
		all := append(slices.Clone(ms), c.workers(2, ms[0])...)
		ms[0].ready(5)
		v := ms[0].everywhere("every", 5)
		began := time.Now()
		before := map[*host]uint64{}
		for _, h := range all {
			before[h] = identityOf(t, h).Generation
		}
		time.Sleep(25 * time.Minute)
		if gaps := v.over(); len(gaps) > 0 {
			t.Errorf("nodes were not heard: %v", gaps)
		}
		for _, h := range all {
			renewals := int(identityOf(t, h).Generation - before[h])
			if opened := c.log.sessionsOf(h, began); renewals < 3 || opened < renewals {
				t.Errorf("%s renewed %d times and opened %d sessions, want one for each of at least 3", h.name, renewals, opened)
			}
		}
	})
}

func TestASessionGoesOnWhileItsSuccessorIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		const life = 10 * time.Minute
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(life)})[0]
		w := c.workers(1, m)[0]
		m.ready(2)
		v := m.everywhere("every", 2)
		began := time.Now()
		c.until(life, "the certificate renewed", func() bool {
			renewed := c.log.since(began, "certificate renewed")
			if len(renewed) > 0 {
				c.net.shut(w.addr, m.addr, true) // before the successor is dialled
			}
			return len(renewed) > 0
		})
		time.Sleep(time.Minute)
		if tried := len(c.log.since(began, "no other session with a manager; the one there is goes on")); tried == 0 {
			t.Error("it is not said that a successor was refused")
		}
		if n := c.log.sessionsOf(w, began); n > 0 {
			t.Errorf("%d sessions were opened through a closed door", n)
		}
		c.net.shut(w.addr, m.addr, false)
		c.until(5*time.Second, "a session of the new certificate", func() bool { return c.log.sessionsOf(w, began) == 1 })
		time.Sleep(life) // beyond the end of the old one
		if gaps := v.over(); len(gaps) > 0 {
			t.Errorf("nodes were not heard: %v", gaps)
		}
	})
}

func TestACertificateRenewedInItsLastSecondsLeavesNoGap(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		const life = 10 * time.Minute
		m := c.managers(1, &modelv1.ClusterSpec{CertExpiry: int64(life)})[0]
		w := c.workers(1, m)[0]
		m.ready(2)
		v := m.everywhere("every", 2)
		end := identityOf(t, w).NotAfter
		time.Sleep(life / 4)
		c.net.shut(w.addr, m.addr, true) // it can renew only when it is too late, nearly
		time.Sleep(time.Until(end) - 3*time.Second)
		if g := identityOf(t, w).Generation; g != 1 {
			t.Fatalf("generation %d, want that it could not renew", g)
		}
		c.net.shut(w.addr, m.addr, false)
		if err := m.update(w, asManager, 0); err != nil { // a demand: it is not waited for the next try
			t.Fatal(err)
		}
		time.Sleep(time.Until(end) - 100*time.Millisecond)
		if who := identityOf(t, w); who.Generation < 2 {
			t.Fatalf("generation %d, want it renewed before the end", who.Generation)
		}
		time.Sleep(2 * time.Minute)
		if gaps := v.over(); len(gaps) > 0 {
			t.Errorf("nodes were not heard: %v", gaps)
		}
	})
}
