package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// contextInfo is who one is at a manager that is reached over the network.
type contextInfo struct {
	Name    string `json:",omitempty"`
	User    string
	Role    string
	Expires time.Time
	Host    string
}

func newContextInfo(p *conn.Place) *contextInfo {
	id := p.Who.Credential.Identity
	return &contextInfo{Name: p.Context, User: id.Name, Role: rpc.RoleName(p.Who.Role), Expires: id.NotAfter.UTC(), Host: p.Host.String()}
}

// onNodeOnly is what a node tells of itself at its own socket, and the swarm does
// not know.
const onNodeOnly = "state directory, containers, certificate and raft timing: run ctl info on the node itself"

// afar is what the swarm knows of itself and of the manager at p, which is what
// any user may see. A manager without a quorum tells the last state it knows.
func afar(ctx context.Context, api *conn.Conn, p *conn.Place) (info, error) {
	fault := ""
	if !p.Contact {
		ctx, fault = rpc.Stale(ctx), p.Host.String()+" does not hear enough of the other managers"
	}
	i, err := records(ctx, api)
	if fault == "" && rpc.RefusalOf(err).GetNoQuorum() != nil {
		if old, again := records(rpc.Stale(ctx), api); again == nil {
			i, fault, err = old, err.Error(), nil
		}
	}
	if err != nil {
		return info{}, err
	}
	if p, err = conn.Elsewhere(ctx, api); err != nil { // the one that answered in the end
		return info{}, err
	}
	i.Context, i.Swarm.Error = newContextInfo(p), fault
	return i, nil
}

// records reads cluster and nodes.
func records(ctx context.Context, api *conn.Conn) (info, error) {
	cluster, err := conn.Read(ctx, api, controlv1.ControlClient.GetCluster, &controlv1.GetClusterRequest{})
	if err != nil {
		return info{}, err
	}
	nodes, err := conn.Read(ctx, api, controlv1.ControlClient.ListNodes, &controlv1.ListNodesRequest{})
	if err != nil {
		return info{}, err
	}
	return fromRecords(cluster, nodes.GetNodes()), nil
}

// fromRecords is the info of the node that answered, as the swarm's records have
// it.
func fromRecords(g *controlv1.GetClusterResponse, nodes []*controlv1.NodeView) info {
	i := info{Swarm: swarmInfo{LocalNodeState: "active", ControlAvailable: true, States: make(map[string]uint32)}}
	for _, n := range nodes {
		i.Swarm.States[show.NodeState(n.GetNode())]++
		if n.GetSelf() {
			i.describe(n)
		}
		i.Swarm.manager(n)
	}
	i.Swarm.learn(g)
	return i
}

// describe fills in what a node's record says of it.
func (i *info) describe(n *controlv1.NodeView) {
	d := n.GetNode().GetDescription()
	i.Name, i.ServerVersion, i.Runtime = d.GetHostname(), d.GetVersion(), d.GetRuntime()
	i.FIPS = d.GetFips()
	i.OperatingSystem, i.Architecture = d.GetOs(), d.GetArchitecture()
	i.NCPU, i.MemTotal = show.CPUs(d.GetResources().GetNanoCpus()), d.GetResources().GetMemoryBytes()
	i.Swarm.NodeID, i.Swarm.NodeAddr = show.ID(n.GetNode().GetId()), d.GetAddress()
}

// manager notes whether a node leads, or is a manager that does not answer.
func (w *swarmInfo) manager(n *controlv1.NodeView) {
	m := n.GetManager()
	name := cmp.Or(n.GetNode().GetDescription().GetHostname(), show.ShortID(n.GetNode().GetId())) + " (" + m.GetAddress() + ")"
	if m.GetLeader() {
		w.Leader = name
	}
	if m.GetReachability() == controlv1.ManagerStatus_REACHABILITY_UNREACHABLE {
		w.UnreachableManagers = append(w.UnreachableManagers, name)
		w.UnreachableSince = append(w.UnreachableSince, or(show.Time(m.GetUnreachableSince()), &time.Time{}).UTC())
	}
}

// states says how many nodes are in which state.
func (w swarmInfo) states() (out []string) {
	for _, name := range slices.Sorted(maps.Keys(w.States)) {
		out = append(out, fmt.Sprintf("%s: %d", name, w.States[name]))
	}
	return out
}
