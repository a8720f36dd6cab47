package dispatch

import (
	"bytes"
	"slices"

	"github.com/distribution/reference"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// work is what one session was told to run. It holds no snapshot: only what the
// next message is compared with.
type work struct {
	node      id.ID
	desired   map[id.ID]modelv1.TaskState
	templates map[templateKey]*modelv1.RegistryAuth // sent, with these credentials
}

type templateKey struct {
	service  id.ID
	revision uint64
}

func newWork(node id.ID) *work {
	return &work{node: node, desired: make(map[id.ID]modelv1.TaskState), templates: make(map[templateKey]*modelv1.RegistryAuth)}
}

// complete is everything snap holds for the node, in place of all that was sent.
func (w *work) complete(snap *store.Snapshot) *dispatchv1.Assignments {
	clear(w.desired)
	clear(w.templates)
	a := &dispatchv1.Assignments{
		History: snap.Cluster().GetHistory(), Index: snap.Index(), Complete: true,
		// A session begins behind a barrier, so a leader has confirmed this history.
		Confirmed: true,
	}
	for t := range snap.TasksByNode(w.node) {
		w.put(snap, a, t)
	}
	return a
}

// diff is what changes make different for the node, nil if they do not. A
// change narrows where to look; what is sent comes from snap.
func (w *work) diff(snap *store.Snapshot, changes []store.Change) *dispatchv1.Assignments {
	if len(changes) == 0 {
		return nil
	}
	a := &dispatchv1.Assignments{History: snap.Cluster().GetHistory(), Index: snap.Index(), Confirmed: true}
	for _, c := range changes {
		if c.Kind != logv1.Kind_KIND_TASK {
			continue
		}
		task, err := id.FromBytes(c.Key)
		if err != nil {
			continue
		}
		was, sent := w.desired[task]
		t := snap.Task(task)
		switch {
		case t != nil && t.Node == w.node && (!sent || was != t.Desired):
			w.put(snap, a, t)
		case sent && (t == nil || t.Node != w.node):
			delete(w.desired, task)
			a.Drop = append(a.Drop, task.Bytes())
		}
	}
	if len(a.GetPut()) == 0 && len(a.GetDrop()) == 0 {
		return nil
	}
	return a
}

// put adds one task, and its template if the session has not had it, or not with
// the credentials that the task is to be pulled for with.
func (w *work) put(snap *store.Snapshot, a *dispatchv1.Assignments, t *store.Task) {
	if w.desired[t.ID] == t.Desired && t.Desired != 0 {
		return // a task that changed twice stands in the message already
	}
	w.desired[t.ID] = t.Desired
	a.Put = append(a.Put, &dispatchv1.Assignment{
		Task: t.ID.Bytes(), Service: t.Service.Bytes(), Revision: t.Revision, Slot: t.Slot,
		Desired: t.Desired, CreatedIndex: t.CreatedIndex,
	})
	rev := snap.Revision(t.Service, t.Revision)
	if rev == nil {
		return // an ended task may outlive its template; the node has what it needs of it
	}
	svc := snap.Service(t.Service)
	auth := authFor(svc, rev, t)
	key := templateKey{t.Service, t.Revision}
	if had, ok := w.templates[key]; ok && (auth == nil || proto.Equal(had, auth)) {
		return
	}
	w.templates[key] = auth
	a.Templates = slices.DeleteFunc(a.GetTemplates(), func(sent *dispatchv1.Template) bool {
		return sent.GetRevision() == t.Revision && bytes.Equal(sent.GetService(), t.Service[:])
	})
	a.Templates = append(a.Templates, &dispatchv1.Template{
		Service: t.Service.Bytes(), Revision: t.Revision, Template: rev.GetTemplate(),
		ServiceName: svc.GetSpec().GetName(), ServiceLabels: svc.GetSpec().GetLabels(),
		RegistryAuth: auth,
	})
}

// authFor returns what the service has for the registry of the revision's image,
// nil if it has nothing or the task is not to be pulled for any more: its node has
// no use for a secret.
func authFor(svc *modelv1.Service, rev *modelv1.Revision, t *store.Task) *modelv1.RegistryAuth {
	if t.Desired > taskstate.Running || t.Observed >= taskstate.Ready || len(svc.GetRegistryAuths()) == 0 {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(rev.GetTemplate().GetContainer().GetImage())
	if err != nil {
		return nil // control has stored none
	}
	for _, auth := range svc.GetRegistryAuths() {
		if auth.GetRegistry() == reference.Domain(named) {
			return auth
		}
	}
	return nil
}

// voice composes what one session's agent is told next.
type voice struct {
	session *session
	work    *work
	greet   func() *dispatchv1.Welcome // without the pulse
	crowded func() bool                // as sessions.crowded

	welcome      *dispatchv1.Welcome
	slowed       bool // the pulse is that of a crowd
	beat         uint64
	wish         *dispatchv1.Wish
	heldManagers uint64
	heldHistory  []byte
}

// compose returns the next message, nil if there is nothing to say. Most say that
// a beat was counted and nothing else: what is wished and the pulse are looked at when
// a record that they come from has changed.
func (v *voice) compose(snap *store.Snapshot, list *cav1.ManagerList, changes []store.Change, whole bool) *dispatchv1.SessionResponse {
	resp := &dispatchv1.SessionResponse{}
	some := v.counted(resp)
	if whole {
		resp.Assignments, some = v.work.complete(snap), true
	} else if a := v.work.diff(snap, changes); a != nil {
		resp.Assignments, some = a, true
	}
	recorded := whole || slices.ContainsFunc(changes, func(c store.Change) bool { return c.Kind != logv1.Kind_KIND_TASK })
	if recorded {
		some = v.wished(snap, resp) || some
	}
	if recorded || v.crowded() != v.slowed {
		some = v.welcomed(snap, resp) || some
	}
	if list != nil && (list.GetIndex() > v.heldManagers || !bytes.Equal(list.GetHistory(), v.heldHistory)) {
		v.heldManagers, v.heldHistory = list.GetIndex(), list.GetHistory()
		resp.Managers, some = list, true
	}
	if !v.thanked(resp, some) {
		return nil
	}
	return resp
}

// thanked adds which reports are committed, if there is something else to say too or it
// has waited for that long enough. It reports whether there is anything to say.
func (v *voice) thanked(resp *dispatchv1.SessionResponse, some bool) bool {
	x := v.session
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.committed > x.thanked && (some || x.thanking) {
		x.thanked, resp.Reports, some = x.committed, x.committed, true
	}
	x.thanking = false
	return some
}

// wished adds what the node's record wants of it, if that is new.
func (v *voice) wished(snap *store.Snapshot, resp *dispatchv1.SessionResponse) (some bool) {
	wish := wishOf(snap, v.work.node, v.session.shown)
	if proto.Equal(wish, v.wish) {
		return false
	}
	v.wish = wish
	if resp.Wish = proto.CloneOf(wish); resp.Wish != nil {
		resp.Wish.Index = snap.Index()
	}
	return true
}

// welcomed adds the pulse that the node is to have, if that is new: a session's first
// answer has it. It is what the operator wants, or in a crowd a third of the lease: as
// seldom as an operator may ask for.
func (v *voice) welcomed(snap *store.Snapshot, resp *dispatchv1.SessionResponse) (some bool) {
	spec := snap.Cluster().GetSpec()
	period, lease := int64(orDefault(spec.GetHeartbeatPeriod(), defaultHeartbeat)), int64(orDefault(spec.GetLease(), defaultLease))
	if v.slowed = v.crowded(); v.slowed {
		period = max(period, lease/3)
	}
	if v.welcome != nil && v.welcome.GetHeartbeatPeriod() == period && v.welcome.GetLease() == lease {
		return false
	}
	v.welcome = v.greet()
	v.welcome.HeartbeatPeriod, v.welcome.Lease = period, lease
	resp.Welcome = v.welcome
	return true
}

// counted adds what the leader has counted and how the session ends.
func (v *voice) counted(resp *dispatchv1.SessionResponse) (some bool) {
	x := v.session
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.confirmed > v.beat {
		v.beat, resp.Beat, some = x.confirmed, x.confirmed, true
	}
	if x.ended != nil {
		resp.End, some = x.ended, true
	}
	return some
}

// wishOf is what the node's record wants of it. shown is the generation of the certificate
// that its session was opened with: the one that was issued last may never have come.
func wishOf(snap *store.Snapshot, node id.ID, shown uint64) *dispatchv1.Wish {
	n := snap.Node(node)
	if n == nil {
		return nil
	}
	root := snap.Cluster().GetRoot()
	wish := &dispatchv1.Wish{
		Role:       n.GetSpec().GetRole(),
		Renew:      roleShown(n, shown) != n.GetSpec().GetRole(),
		Roots:      slices.Clone(root.GetCertificates()),
		Member:     snap.MemberByNode(node).GetRaftId(),
		Trust:      root.GetTrust(),
		History:    snap.Cluster().GetHistory(),
		ClockAhead: n.GetStatus().GetClockAhead(), ClockBy: n.GetStatus().GetClockBy(),
	}
	if r := root.GetRotation(); r.GetPhase() > modelv1.RootPhase_ROOT_PHASE_TRUST {
		// Whoever has a certificate of another root renews it.
		signer := store.Signer(root)
		wish.Issuer, wish.Spread = signer[:], r.GetSpread()
	}
	return wish
}

// roleShown is the role in a node's certificate of that generation, as the record has it.
// Of one that is no longer there it is none.
func roleShown(n *modelv1.Node, shown uint64) modelv1.Role {
	switch shown {
	case 0, n.GetCurrent().GetGeneration(): // 0: nobody has seen one
		return n.GetCurrent().GetRole()
	case n.GetPrevious().GetGeneration():
		return n.GetPrevious().GetRole()
	}
	return modelv1.Role_ROLE_UNSPECIFIED
}
