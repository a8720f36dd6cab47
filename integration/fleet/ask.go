package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// callTime bounds one question of this file.
const callTime = 5 * time.Second

// Nodes asks one member for the nodes of the swarm, by hostname.
func (m *Member) Nodes(ctx context.Context) (map[string]*controlv1.NodeView, error) {
	cc, err := m.Dial()
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	ctx, stop := context.WithTimeout(ctx, callTime)
	defer stop()
	resp, err := controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{})
	if err != nil {
		return nil, err
	}
	nodes := map[string]*controlv1.NodeView{}
	for _, n := range resp.GetNodes() {
		nodes[n.GetNode().GetDescription().GetHostname()] = n
	}
	return nodes, nil
}

// Tasks asks one member for the tasks of a service.
func (m *Member) Tasks(ctx context.Context, service string) ([]*controlv1.TaskView, error) {
	cc, err := m.Dial()
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	ctx, stop := context.WithTimeout(ctx, callTime)
	defer stop()
	resp, err := controlv1.NewControlClient(cc).ListTasks(ctx, &controlv1.ListTasksRequest{Filter: &controlv1.Filter{Services: []string{service}}})
	if err != nil {
		return nil, err
	}
	return resp.GetTasks(), nil
}

// Leader is the member that leads, as the first manager that answers says.
func (f *Fleet) Leader(ctx context.Context) (*Member, error) {
	var faults []error
	for _, m := range f.Managers() {
		if !m.Up() {
			continue
		}
		nodes, err := m.Nodes(ctx)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, x := range f.Managers() {
			if nodes[x.Name()].GetManager().GetLeader() {
				return x, nil
			}
		}
		faults = append(faults, fmt.Errorf("%s knows no leader", m.Name()))
	}
	return nil, errors.Join(faults...)
}

// Whole waits until every manager says that every node is ready and that every
// manager is a voter that can be reached.
func (f *Fleet) Whole(ctx context.Context, limit time.Duration) error {
	return Until(ctx, limit, func(ctx context.Context) error {
		for _, m := range f.Managers() {
			nodes, err := m.Nodes(ctx)
			if err != nil {
				return fmt.Errorf("ask %s: %w", m.Name(), err)
			}
			for _, x := range f.Members {
				if err := ready(x, nodes[x.Name()]); err != nil {
					return fmt.Errorf("%s says: %w", m.Name(), err)
				}
			}
		}
		return nil
	})
}

func ready(x *Member, v *controlv1.NodeView) error {
	if s := v.GetNode().GetStatus().GetState(); s != modelv1.NodeState_NODE_STATE_READY {
		return fmt.Errorf("%s is %v", x.Name(), s)
	}
	if x.Manager && (!v.GetManager().GetVoter() || v.GetManager().GetReachability() == controlv1.ManagerStatus_REACHABILITY_UNREACHABLE) {
		return fmt.Errorf("manager %s is %v, voter %v", x.Name(), v.GetManager().GetReachability(), v.GetManager().GetVoter())
	}
	return nil
}

// RequestID draws the id that makes a changing call safe to repeat.
func RequestID() []byte {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails, says its contract
	return b
}
