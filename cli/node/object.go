package node

import (
	"cmp"
	"time"

	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// object is a node as inspect prints it. The names are Docker's; the set only
// grows.
type object struct {
	ID            string
	Version       version
	CreatedAt     *time.Time `json:",omitempty"`
	UpdatedAt     *time.Time `json:",omitempty"`
	Spec          spec
	Role          string
	RoleReason    string `json:",omitempty"`
	Description   description
	Status        nodeStatus
	ManagerStatus *managerState `json:",omitempty"`
}

type version struct{ Index uint64 }

type spec struct {
	Name         string `json:",omitempty"`
	Labels       map[string]string
	Role         string
	Availability string
}

type description struct {
	Hostname  string
	Platform  platform
	Resources resources
	Engine    engine
	TLSInfo   *tlsInfo `json:",omitempty"`
}

type platform struct{ Architecture, OS string }

type resources struct{ NanoCPUs, MemoryBytes int64 }

type engine struct {
	EngineVersion string
	Runtime       string `json:",omitempty"`
	// FIPS: the daemon says that it is in FIPS 140-3 mode.
	FIPS   bool              `json:",omitempty"`
	Labels map[string]string `json:",omitempty"`
}

type tlsInfo struct{ TrustRoot, CertIssuerSubject, CertIssuerPublicKey string }

type nodeStatus struct {
	State     string
	Message   string     `json:",omitempty"`
	Addr      string     `json:",omitempty"`
	LostSince *time.Time `json:",omitempty"`
	// TwinAddr is where another machine uses its identity; empty if none does.
	TwinAddr string `json:",omitempty"`
	// Clock says how far its clock is off the swarm's; empty if it is not.
	Clock string `json:",omitempty"`
}

type managerState struct {
	Leader       bool `json:",omitempty"`
	Reachability string
	Addr         string
	Voter        bool
	// UnreachableSince is by the clock of the manager that answered.
	UnreachableSince *time.Time `json:",omitempty"`
}

func newObject(resp *controlv1.GetNodeResponse) object {
	n := resp.GetNode().GetNode()
	o := object{
		ID:        show.ID(n.GetId()),
		Version:   version{n.GetMeta().GetVersion()},
		CreatedAt: show.Time(n.GetMeta().GetCreatedAt()),
		UpdatedAt: show.Time(n.GetMeta().GetUpdatedAt()),
		Spec: spec{Name: n.GetSpec().GetName(), Labels: labels(n.GetSpec().GetLabels()),
			Role: role(n.GetSpec().GetRole()), Availability: availability(n)},
		Role:        role(n.GetRole()),
		RoleReason:  n.GetRoleReason(),
		Description: newDescription(n.GetDescription(), resp.GetRoots()),
		Status: nodeStatus{State: lower(show.NodeState(n)), Message: n.GetStatus().GetMessage(),
			Addr: address(n), LostSince: show.Time(n.GetStatus().GetLostSince()),
			TwinAddr: n.GetStatus().GetTwinAddress(),
			Clock:    show.Clock(n.GetStatus().GetClockAhead(), n.GetStatus().GetClockBy())},
	}
	if m := resp.GetNode().GetManager(); m != nil {
		o.ManagerStatus = &managerState{Leader: m.GetLeader(), Reachability: reachability(m), Addr: m.GetAddress(), Voter: m.GetVoter(), UnreachableSince: show.Time(m.GetUnreachableSince())}
	}
	return o
}

func newDescription(d *modelv1.NodeDescription, roots [][]byte) description {
	return description{
		Hostname:  d.GetHostname(),
		Platform:  platform{Architecture: d.GetArchitecture(), OS: d.GetOs()},
		Resources: resources{d.GetResources().GetNanoCpus(), d.GetResources().GetMemoryBytes()},
		Engine:    engine{EngineVersion: d.GetVersion(), Runtime: d.GetRuntime(), Labels: d.GetEngineLabels(), FIPS: d.GetFips()},
		TLSInfo:   newTLSInfo(roots),
	}
}

// address is where the node is reached: as it says itself, else as it was seen.
func address(n *modelv1.Node) string {
	return cmp.Or(n.GetDescription().GetAddress(), n.GetStatus().GetObservedAddress())
}

// labels is never nil: scripts index it.
func labels(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func lower(s string) string { return string(s[0]|0x20) + s[1:] }
