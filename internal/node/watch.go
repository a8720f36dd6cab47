package node

import (
	"context"
	"log/slog"
	"net"
	"strings"

	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/internal/metrics"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// serveMetrics tells who asks at l how this node is, until ctx ends. The node
// does without it if it must.
func (n *Node) serveMetrics(ctx context.Context, l net.Listener) {
	s := metrics.New(metrics.Config{Look: n.look, Condition: n.condition, Log: n.cfg.Log})
	if err := s.Serve(ctx, l); err != nil {
		n.cfg.Log.LogAttrs(ctx, slog.LevelError, "metrics are told no longer", slog.Any("err", err))
	}
}

// look is the node's counters now.
func (n *Node) look() metrics.Facts {
	state, life, _ := n.standing()
	f := metrics.Facts{State: state, RPC: n.server.Meters()}
	if life == nil {
		return f
	}
	f.NotAfter, f.RenewAt = n.holder.Get().Identity.NotAfter, life.renewer.NextAt()
	if m, ok := life.agent.Meters(); ok {
		f.Agent = &m
	}
	if rt, ok := life.runtime.(interface{ Meters() containerd.Meters }); ok {
		m := rt.Meters()
		f.Runtime = &m
	}
	if manager := life.look().manager; manager != nil {
		m := manager.Meters()
		f.Manager = &m
	}
	return f
}

// condition is how the node is now.
func (n *Node) condition() metrics.Condition {
	state, life, fault := n.standing()
	c := metrics.Condition{State: state, Fault: fault}
	if life == nil {
		return c
	}
	v := life.look()
	c.Session = life.agent.Status().Session.Manager != nil
	c.Member = v.manager != nil || life.isManager()
	if v.manager == nil {
		return c
	}
	raft := v.manager.Pulse()
	c.Running, c.Leader, c.InContact, c.Ticked = true, raft.Status.Leader != 0, raft.Status.InContact, raft.Ticked
	if err := raft.Status.Failed; err != nil {
		c.Unwritable = err.Error()
	}
	return c
}

// standing is the node's state in a word, as "ctl info" shows it, its life if it
// has one, and what is wrong.
func (n *Node) standing() (state string, l *life, fault string) {
	phase, l, err := n.get()
	if err != nil {
		fault = err.Error()
	}
	if l != nil {
		switch v := l.look(); {
		case v.waits != nil:
			phase, fault = localv1.State_STATE_PENDING, v.waits.Error()
		case v.revoked != "":
			phase, fault = localv1.State_STATE_ERROR, v.revoked
		case v.fault != nil:
			phase, fault = localv1.State_STATE_ERROR, v.fault.Error()
		}
	}
	return strings.ToLower(strings.TrimPrefix(phase.String(), "STATE_")), l, fault
}
