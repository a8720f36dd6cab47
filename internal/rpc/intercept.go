package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

var errUnavailable = errdefs.ErrUnavailable

// call is one call on its way through the chain.
type call struct {
	method *method
	office *office
	caller Caller
	proof  Proof     // of a Node
	user   UserProof // of a User with a certificate
	link   *link
	// forwarded is true if another manager carried it here.
	forwarded bool
}

// unary is the chain of a call with one answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		err = toStatus(s.recovered(recover(), info.FullMethod, err))
	}()
	if _, bound := ctx.Deadline(); !bound {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, s.cfg.Timeout)
		defer stop()
	}
	c, err := s.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	ctx = WithCaller(ctx, c.caller)
	if info.Server == nil {
		return nil, s.unserved()
	}
	if err := s.fresh(ctx, c, func(md metadata.MD) error { return grpc.SetHeader(ctx, md) }); err != nil {
		return nil, err
	}
	if !c.method.policy.GetLeader() {
		resp, err := next(ctx, req)
		if err == nil {
			s.shown(c)
		}
		s.ended(c, err)
		return resp, err
	}
	in, ok := req.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("%s: request is a %T, not a message", info.FullMethod, req)
	}
	return s.lead(ctx, c, in, next)
}

// recovered turns a panic of a handler into an error and a record. A panic that
// invariant.Check caused is not for this request alone: it goes on.
func (s *Server) recovered(fault any, method string, err error) error {
	if fault == nil {
		return err
	}
	if broken(fault) {
		panic(fault)
	}
	s.cfg.Log.Error("handler panicked", slog.String("method", method),
		slog.String("fault", fmt.Sprint(fault)), slog.String("stack", string(debug.Stack())))
	return Errorf(errdefs.ErrInternal, "%s: a fault in the daemon stopped the request; its log has the details", method)
}

// broken reports whether a panic came from invariant.Check: a replica that
// doubts itself must not vote.
func broken(fault any) bool {
	text, ok := fault.(string)
	const mark = "invariant: "
	return ok && len(text) >= len(mark) && text[:len(mark)] == mark
}

// enter learns who calls and whether he may.
func (s *Server) enter(ctx context.Context, name string) (*call, error) {
	s.mu.Lock()
	m := s.methods[name]
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("method %s: it has no policy: %w", name, errdefs.ErrPermissionDenied)
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil, fmt.Errorf("method %s: no peer: %w", name, errdefs.ErrUnauthenticated)
	}
	l, ok := p.AuthInfo.(*link)
	if !ok {
		return nil, fmt.Errorf("method %s: the connection proves nothing: %w", name, errdefs.ErrUnauthenticated)
	}
	c := &call{method: m, office: s.office.Load(), link: l}
	if err := s.admit(ctx, c, p); err != nil {
		s.stopped(c, err)
		return nil, err
	}
	return c, nil
}

// admit fills in who calls, or refuses him.
func (s *Server) admit(ctx context.Context, c *call, p *peer.Peer) error {
	if err := s.identify(ctx, c, p); err != nil {
		return err
	}
	if err := s.forwardedCaller(ctx, c); err != nil {
		return err
	}
	c.caller.Method = c.method.name
	role, err := s.authorise(ctx, c)
	if err != nil {
		if c.method.policy.GetLeader() {
			s.told(c, err)
		}
		return err
	}
	c.caller.Role = role
	return nil
}

// identify says who is at the other end of the connection.
func (s *Server) identify(ctx context.Context, c *call, p *peer.Peer) error {
	switch {
	case c.link.user:
		c.caller = Caller{Kind: User, User: fmt.Sprintf("uid:%d", c.link.uid), Local: true}
		if own := s.cfg.Credential.Get(); own != nil {
			c.caller.At = own.Identity.Node
		}
		if c.link.uid != 0 && c.link.uid != s.cfg.UID {
			return Refuse(Errorf(errdefs.ErrPermissionDenied, "user %d may not use this socket", c.link.uid),
				"run the command as root or as the user the daemon runs as")
		}
	case c.link.node != nil:
		c.caller = Caller{Kind: Node, Node: c.link.node.Node, Identity: *c.link.node, Address: p.Addr.String()}
		c.proof = c.newProof(c.link.at, StaleAsked(ctx))
	case c.link.person != nil:
		c.caller = Caller{Kind: User, User: c.link.person.Name, Person: *c.link.person, Address: p.Addr.String()}
		c.user = c.newUserProof(c.link.at, StaleAsked(ctx))
	default:
		c.caller = Caller{Kind: Anyone, Address: p.Addr.String()}
	}
	return nil
}

func (c *call) newProof(since time.Time, stale bool) Proof {
	return Proof{
		Identity: c.caller.Identity, Since: since, Method: c.method.name, Stale: stale,
		Expired: time.Now().After(c.caller.Identity.NotAfter),
	}
}

// authorise returns the caller's role if the policy lets him call the method.
func (s *Server) authorise(ctx context.Context, c *call) (modelv1.Role, error) {
	m := c.method
	if m.allows(rpcv1.Who_WHO_ANYONE) {
		return modelv1.Role_ROLE_UNSPECIFIED, nil
	}
	switch c.caller.Kind {
	case User:
		switch {
		case !m.allows(rpcv1.Who_WHO_USER):
		case c.caller.Person.IsZero():
			return modelv1.Role_ROLE_UNSPECIFIED, nil
		default:
			return modelv1.Role_ROLE_UNSPECIFIED, s.authoriseUser(ctx, c)
		}
	case Node:
		return s.authoriseNode(ctx, c)
	case Anyone:
		return 0, Refuse(Errorf(errdefs.ErrUnauthenticated, "%s: the caller showed no certificate", m.name),
			`join the swarm first: "ctl swarm join"`)
	}
	return 0, Errorf(errdefs.ErrPermissionDenied, "%s: not for %s", m.name, c.caller.Key())
}

func (s *Server) authoriseNode(ctx context.Context, c *call) (modelv1.Role, error) {
	judge, m := c.office.authorizer, c.method
	if judge == nil {
		return 0, s.notManager()
	}
	if c.proof.Expired && m.name != cav1.Authority_Renew_FullMethodName && time.Since(c.proof.NotAfter) > max(0, s.cfg.Grace) {
		return 0, expired(c.proof, s.self())
	}
	if m.allows(rpcv1.Who_WHO_MEMBER) {
		if err := judge.Member(ctx, c.proof); err == nil || !m.allows(rpcv1.Who_WHO_NODE) && !m.allows(rpcv1.Who_WHO_MANAGER) {
			return modelv1.Role_ROLE_MANAGER, err
		}
	}
	if !m.allows(rpcv1.Who_WHO_NODE) && !m.allows(rpcv1.Who_WHO_MANAGER) {
		return 0, Errorf(errdefs.ErrPermissionDenied, "%s: not for nodes", m.name)
	}
	// Who has a certificate that has ended may ask for the next one and do nothing
	// else: whether he gets it, his record and the cluster's settings say.
	if c.proof.Expired && m.name != cav1.Authority_Renew_FullMethodName {
		return 0, expired(c.proof, s.self())
	}
	role, err := judge.Node(ctx, c.proof)
	if err != nil {
		return 0, err
	}
	if role != modelv1.Role_ROLE_MANAGER && !m.allows(rpcv1.Who_WHO_NODE) {
		return 0, Errorf(errdefs.ErrPermissionDenied, "%s: node %s is not a manager", m.name, c.caller.Node)
	}
	return role, nil
}

func expired(p Proof, manager id.ID) error {
	now := time.Now()
	return RefuseTime(Errorf(errdefs.ErrUnauthenticated, "certificate of node %s expired at %s, and the clock of manager %s says %s",
		p.Node, p.NotAfter.UTC().Format(time.RFC3339), manager.Short(), now.UTC().Format(time.RFC3339)),
		`the node renews by itself, if the swarm's settings allow it; "ctl info" there says how far it is`, manager, now)
}

// self is the node this server is of; zero before it is in a cluster.
func (s *Server) self() id.ID {
	if own := s.cfg.Credential.Get(); own != nil {
		return own.Identity.Node
	}
	return id.ID{}
}

// fresh makes a reading call linearizable, or lets it be stale if the caller
// asked for that, and says in the header which it is.
func (s *Server) fresh(ctx context.Context, c *call, header func(metadata.MD) error) error {
	if !c.method.policy.GetRead() {
		return nil
	}
	leader := c.office.leader
	if leader == nil {
		return s.unserved()
	}
	stale := StaleAsked(ctx)
	if stale {
		// The local root may always look (R18).
		if err := leader.StaleOK(ctx); err != nil && !c.caller.Local {
			return err
		}
	} else if err := s.barrier(ctx, leader); err != nil {
		return err
	}
	f := leader.Freshness()
	f.Stale = stale
	return header(f.header())
}

func (s *Server) barrier(ctx context.Context, leader Leader) error {
	wait, stop := context.WithTimeout(ctx, s.cfg.ElectionWait)
	defer stop()
	err := leader.Barrier(wait)
	if err != nil && ctx.Err() == nil && errors.Is(wait.Err(), context.DeadlineExceeded) && RefusalOf(err).GetNoQuorum() == nil {
		return s.noLeader(ctx, leader)
	}
	return err
}
