package control

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func (w *world) updateNode(req *controlv1.UpdateNodeRequest) (*controlv1.UpdateNodeResponse, error) {
	req.RequestId = fresh()
	return w.UpdateNode(w.ctx(), req)
}

func TestANodeIsFoundByIDNameAndBeginning(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.node(3, worker)
	whole := num(2).String()
	for ref, want := range map[string]byte{"dev02": 2, whole: 2, "self": 1} {
		resp, err := w.GetNode(w.ctx(), &controlv1.GetNodeRequest{Ref: ref})
		if err != nil || idOf(resp.GetNode().GetNode().GetId()) != num(want) {
			t.Errorf("GetNode(%q) = %v, %v; want node %d", ref, resp, err, want)
		}
	}
	_, err := w.GetNode(w.ctx(), &controlv1.GetNodeRequest{Ref: whole[:24]})
	w.refuses(err, errdefs.IsInvalidArgument, "is ambiguous (3 matches found)", "whole id")
	_, err = w.GetNode(w.ctx(), &controlv1.GetNodeRequest{Ref: "dev09"})
	w.refuses(err, errdefs.IsNotFound, "node dev09 not found", "")
	_, err = w.GetNode(w.ctx(), &controlv1.GetNodeRequest{})
	w.refuses(err, errdefs.IsInvalidArgument, "must be named", "")
	// A name that another node's id begins with still means the name.
	if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev03", Name: new("0")}); err != nil {
		t.Fatal(err)
	}
	resp, err := w.GetNode(w.ctx(), &controlv1.GetNodeRequest{Ref: "0"})
	if err != nil || idOf(resp.GetNode().GetNode().GetId()) != num(3) {
		t.Errorf("GetNode(0) = %v, %v; want the node of that name", resp, err)
	}
}

func TestNodesAreShownWithWhatThisManagerSees(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.node(3, worker)
	w.leader, w.dark[1] = 2, true
	resp, err := w.ListNodes(w.ctx(), &controlv1.ListNodesRequest{})
	if err != nil || len(resp.GetNodes()) != 3 {
		t.Fatalf("ListNodes = %v, %v", resp, err)
	}
	one, two, three := resp.GetNodes()[0], resp.GetNodes()[1], resp.GetNodes()[2]
	if !one.GetSelf() || one.GetManager().GetLeader() || one.GetManager().GetReachability() != controlv1.ManagerStatus_REACHABILITY_UNREACHABLE {
		t.Errorf("dev01 = %v", one)
	}
	if two.GetSelf() || !two.GetManager().GetLeader() || two.GetManager().GetAddress() != "dev02:2377" || !two.GetManager().GetVoter() {
		t.Errorf("dev02 = %v", two)
	}
	if three.GetManager() != nil {
		t.Errorf("dev03 = %v, want no manager status", three)
	}
}

func TestNodesAreFiltered(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.node(3, worker)
	if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev03", LabelsAdd: map[string]string{"zone": "a"}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		filter *controlv1.Filter
		want   int
	}{
		{"nothing", nil, 3},
		{"role", &controlv1.Filter{Roles: []modelv1.Role{worker}}, 1},
		{"name", &controlv1.Filter{Names: []string{"dev"}}, 3},
		{"two names", &controlv1.Filter{Names: []string{"dev01", "dev02"}}, 2},
		{"name and role", &controlv1.Filter{Names: []string{"dev01"}, Roles: []modelv1.Role{worker}}, 0},
		{"id", &controlv1.Filter{Ids: []string{num(2).String()}}, 1},
		{"label key", &controlv1.Filter{NodeLabels: []string{"zone"}}, 1},
		{"label", &controlv1.Filter{NodeLabels: []string{"zone=a"}}, 1},
		{"another label", &controlv1.Filter{NodeLabels: []string{"zone=b"}}, 0},
		{"engine label", &controlv1.Filter{Labels: []string{"zone"}}, 0},
		{"membership", &controlv1.Filter{Memberships: []modelv1.Membership{modelv1.Membership_MEMBERSHIP_PENDING}}, 0},
	} {
		resp, err := w.ListNodes(w.ctx(), &controlv1.ListNodesRequest{Filter: tt.filter})
		if err != nil || len(resp.GetNodes()) != tt.want {
			t.Errorf("by %s: %d nodes, %v; want %d", tt.name, len(resp.GetNodes()), err, tt.want)
		}
	}
	_, err := w.ListNodes(w.ctx(), &controlv1.ListNodesRequest{Filter: &controlv1.Filter{Modes: []string{"global"}}})
	w.refuses(err, errdefs.IsInvalidArgument, "nodes cannot be filtered by modes", "")
}

func TestAnUpdateOfANodeChangesWhatItNames(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.node(3, worker)
	w.node(4, worker)
	if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev03", LabelsAdd: map[string]string{"a": "1", "b": "2"}, Name: new("box")}); err != nil {
		t.Fatal(err)
	}
	resp, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "box", LabelsRm: []string{"a"}, Availability: modelv1.Availability_AVAILABILITY_DRAIN.Enum()})
	spec := resp.GetNode().GetNode().GetSpec()
	if err != nil || len(spec.GetLabels()) != 1 || spec.GetLabels()["b"] != "2" || spec.GetName() != "box" ||
		spec.GetAvailability() != modelv1.Availability_AVAILABILITY_DRAIN || spec.GetRole() != worker || resp.GetUnchanged() {
		t.Errorf("spec = %v, %v", spec, err)
	}
	_, err = w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev04", Name: new("box")})
	w.refuses(err, errdefs.IsAlreadyExists, "the name box belongs to node", "")
	if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "box", Name: new("")}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev04", Name: new("box")}); err != nil {
		t.Errorf("the name was not free again: %v", err)
	}
	_, err = w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev03", Version: 1})
	w.refuses(err, errdefs.IsAborted, "update out of sequence", "read it again")
	_, err = w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev03", Role: modelv1.Role(9).Enum(), Availability: modelv1.Availability(0).Enum(),
		LabelsAdd: map[string]string{"": "x"}, Name: new("-no-")})
	w.refuses(err, errdefs.IsInvalidArgument, "role: want worker or manager; availability: want active, pause or drain; label: a key is empty; name", "")
}

func TestPromotionAndDemotionSayWhatTheyMean(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.node(2, worker)
	w.node(3, worker)
	w.lose(3, 1)
	role := func(ref string, r modelv1.Role) (string, bool) {
		resp, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: ref, Role: r.Enum()})
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		return strings.Join(resp.GetWarnings(), "\n"), resp.GetUnchanged()
	}
	if said, unchanged := role("dev02", manager); !strings.Contains(said, "two managers") || unchanged {
		t.Errorf("the second manager: %q, unchanged %v", said, unchanged)
	}
	if said, unchanged := role("dev02", manager); said != "" || !unchanged {
		t.Errorf("promoting again: %q, unchanged %v", said, unchanged)
	}
	if said, _ := role("dev03", manager); !strings.Contains(said, "is down") || strings.Contains(said, "two managers") {
		t.Errorf("promoting a node that is down: %q", said)
	}
	if said, _ := role("dev03", worker); !strings.Contains(said, "keys of the swarm") || !strings.Contains(said, "ctl node rm --compromised dev03") || !strings.Contains(said, "two managers") {
		t.Errorf("demoting: %q", said)
	}
	if got := w.snapshot().Node(num(3)).GetRole(); got != worker {
		t.Errorf("control wrote the role itself: %v", got)
	}
}

func TestADemotionThatBreaksTheSwarmIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	w.quorum = errors.New("of the 2 managers that would remain, 1 can be reached and 2 are needed for a quorum")
	_, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev02", Role: worker.Enum()})
	w.refuses(err, errdefs.IsFailedPrecondition, "loss of quorum: of the 2 managers that would remain", "bring the other managers back")
	w.quorum = nil
	for _, ref := range []string{"dev02", "dev03"} {
		if _, err := w.updateNode(&controlv1.UpdateNodeRequest{Ref: ref, Role: worker.Enum()}); err != nil {
			t.Fatal(err)
		}
	}
	_, err = w.updateNode(&controlv1.UpdateNodeRequest{Ref: "dev01", Role: worker.Enum()})
	w.refuses(err, errdefs.IsFailedPrecondition, "attempting to demote the last manager of the swarm", "ctl node promote")
}

func TestANodeIsRemovedWhenItIsDown(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	w.node(3, worker)
	w.node(4, worker)
	x := w.create(web())
	w.task(100, x, 1, 4, taskstate.Running)
	remove := func(ref string, force bool) (*controlv1.RemoveNodeResponse, error) {
		return w.RemoveNode(w.ctx(), &controlv1.RemoveNodeRequest{RequestId: fresh(), Ref: ref, Force: force})
	}
	_, err := remove("dev03", false)
	w.refuses(err, errdefs.IsFailedPrecondition, "node dev03 is not down and can't be removed", "--force")
	w.lose(2, 1)
	for _, force := range []bool{false, true} {
		_, err = remove("dev02", force)
		w.refuses(err, errdefs.IsFailedPrecondition, "must be demoted to worker before removal", "ctl node demote dev02")
	}
	w.lose(3, 1)
	resp, err := remove("dev03", false)
	if err != nil || idOf(resp.GetId()) != num(3) || len(resp.GetWarnings()) != 0 || w.snapshot().Node(num(3)) != nil {
		t.Errorf("RemoveNode = %v, %v", resp, err)
	}
	resp, err = remove("dev04", true)
	if err != nil || len(resp.GetWarnings()) != 1 || !strings.Contains(resp.GetWarnings()[0], "may run on") {
		t.Errorf("RemoveNode by force = %v, %v", resp, err)
	}
	_, err = remove("dev04", false)
	w.refuses(err, errdefs.IsNotFound, "not found", "")
}

func TestNoSecretLeavesButByTheTokens(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	resp, err := w.GetCluster(w.ctx(), &controlv1.GetClusterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	c := resp.GetCluster()
	if c.GetRoot().GetKey() != nil || c.GetWorkerToken() != nil || c.GetManagerToken() != nil || len(c.GetRoot().GetCertificates()) != 1 {
		t.Errorf("cluster = %v", c)
	}
	if resp.GetNodes() != 2 || resp.GetManagers() != 2 || strings.Join(resp.GetManagerAddresses(), " ") != "dev01:2377 dev02:2377" {
		t.Errorf("GetCluster = %v", resp)
	}
	if w.snapshot().Cluster().GetRoot().GetKey() == nil {
		t.Error("the redaction reached the store")
	}
	updated, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Spec: &modelv1.ClusterSpec{}})
	if err != nil || updated.GetCluster().GetRoot().GetKey() != nil || updated.GetCluster().GetManagerToken() != nil {
		t.Errorf("UpdateCluster = %v, %v", updated, err)
	}
}

func TestAJoinTokenPinsTheRootAndRotates(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	get := func(r modelv1.Role) ca.Token {
		resp, err := w.GetJoinToken(w.ctx(), &controlv1.GetJoinTokenRequest{Role: r})
		if err != nil || resp.GetAddress() != "dev01:2377" {
			t.Fatalf("GetJoinToken = %v, %v", resp, err)
		}
		token, err := ca.ParseToken(resp.GetToken())
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	first := get(worker)
	if first.Digest != ca.RootDigest(w.snapshot().Cluster().GetRoot().GetCertificates()[0]) || string(first.Secret.Reveal()) != "worker secret 16" {
		t.Errorf("token = %v", first)
	}
	resp, err := w.RotateJoinToken(w.ctx(), &controlv1.RotateJoinTokenRequest{RequestId: fresh(), Role: worker})
	if err != nil {
		t.Fatal(err)
	}
	if got := get(worker); got.Secret.Equal(first.Secret) || got.Reveal() != resp.GetToken() {
		t.Error("the token did not change, or to another than was said")
	}
	if got := get(manager); string(got.Secret.Reveal()) != "manager secret16" {
		t.Error("the other role's token changed")
	}
	_, err = w.GetJoinToken(w.ctx(), &controlv1.GetJoinTokenRequest{})
	w.refuses(err, errdefs.IsInvalidArgument, "want the role worker or manager", "")
}

func TestClusterSettingsAreChecked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	version := w.snapshot().Cluster().GetMeta().GetVersion()
	set := func(version uint64, spec *modelv1.ClusterSpec) error {
		_, err := w.UpdateCluster(w.ctx(), &controlv1.UpdateClusterRequest{RequestId: fresh(), Version: version, Spec: spec})
		return err
	}
	w.refuses(set(version, &modelv1.ClusterSpec{HeartbeatPeriod: 1e6, Lease: 1e6, CertExpiry: 60e9}), errdefs.IsInvalidArgument,
		"heartbeat 1ms: at least 100ms", "")
	w.refuses(set(version, &modelv1.ClusterSpec{HeartbeatPeriod: 5e9}), errdefs.IsInvalidArgument, "lease 10s: at least 3 heartbeats of 5s", "")
	w.refuses(set(version, &modelv1.ClusterSpec{DeadManagerRemoval: 59e9}), errdefs.IsInvalidArgument,
		"dead manager removal 59s: at least 1m0s, or 0 for never", "")
	w.refuses(set(version, &modelv1.ClusterSpec{CertExpiry: 599e9}), errdefs.IsInvalidArgument, "certificate expiry 9m59s: at least 10m0s", "")
	w.refuses(set(version, nil), errdefs.IsInvalidArgument, "spec: missing", "")
	if err := set(version, &modelv1.ClusterSpec{HeartbeatPeriod: 1e9, Lease: 5e9, CertExpiry: 600e9, ManagerCertExpiry: 600e9}); err != nil {
		t.Error(err)
	}
	w.refuses(set(version, &modelv1.ClusterSpec{}), errdefs.IsAborted, "the swarm is at version", "read it again")
}

// TestARetryAtAnotherManagerIsNotDoneTwice: ctl goes on with the next manager
// when one does not answer, and what it asked for may have been done by then.
// Found by integration/soak.
func TestARetryAtAnotherManagerIsNotDoneTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	label := func(value string) *controlv1.UpdateNodeRequest {
		return &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: "dev01", LabelsAdd: map[string]string{"x": value}}
	}
	at := func(n byte, q *controlv1.UpdateNodeRequest) {
		t.Helper()
		ctx := rpc.WithCaller(w.Context(), rpc.Caller{Kind: rpc.User, User: "uid:0", At: num(n)})
		if _, err := w.UpdateNode(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	first := label("first")
	at(1, first)
	at(1, label("second"))
	at(2, first)
	if got := w.snapshot().Node(num(1)).GetSpec().GetLabels()["x"]; got != "second" {
		t.Errorf("after the retry of an older request the label is %q, want second", got)
	}
}
