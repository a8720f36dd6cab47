package rpc

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// passport is the original caller of a forwarded call, in metadata.
type passport struct {
	Kind       Kind      `json:"kind"`
	Cluster    id.ID     `json:"cluster,omitzero"`
	Node       id.ID     `json:"node,omitzero"`
	Generation uint64    `json:"generation,omitempty"`
	Key        []byte    `json:"key,omitempty"`
	NotBefore  time.Time `json:"not_before,omitzero"`
	NotAfter   time.Time `json:"not_after,omitzero"`
	CertRole   int32     `json:"cert_role,omitempty"`
	Since      time.Time `json:"since,omitzero"`
	User       string    `json:"user,omitempty"`
	Person     id.ID     `json:"person,omitzero"`
	At         id.ID     `json:"at,omitzero"`
	Address    string    `json:"address,omitempty"`
}

// lead does a leader's work here or has the leader do it, and keeps trying while
// an election is going on: each try is safe to repeat, because it was refused
// before it began or its request id says that it was done (R10).
func (s *Server) lead(ctx context.Context, c *call, req proto.Message, next grpc.UnaryHandler) (any, error) {
	leader := c.office.leader
	if leader == nil {
		return nil, s.unserved()
	}
	if c.forwarded && !leader.IsLeader() {
		// Never carried twice: whoever sent it looks for the leader himself.
		return nil, Refuse(Errorf(errdefs.ErrUnavailable, "%s: this manager is not the leader", c.method.name), "",
			&rpcv1.NotLeader{})
	}
	wait, stop := context.WithTimeout(ctx, s.cfg.ElectionWait)
	defer stop()
	for {
		resp, repeat, err := s.once(ctx, wait, c, req, next)
		if err == nil || !repeat || c.forwarded {
			return resp, err
		}
		if s.office.Load() != c.office {
			return nil, s.unserved() // nobody here hears of a leader any more
		}
		select {
		case <-time.After(electionPoll):
		case <-wait.Done():
			return nil, s.gaveUp(ctx, leader, err)
		}
	}
}

// once tries to have the call done. repeat is true if it failed for want of a
// leader.
func (s *Server) once(ctx, wait context.Context, c *call, req proto.Message, next grpc.UnaryHandler) (resp any, repeat bool, err error) {
	leader := c.office.leader
	if leader.IsLeader() {
		resp, err := next(ctx, req)
		if errdefs.IsUnknown(err) && RefusalOf(err) == nil {
			err = Refuse(err, "", &rpcv1.Unknown{}) // the words alone would be taken for a failure
		}
		s.told(c, err)
		s.ended(c, err)
		// A leader's own reasons stand; those of one that lost its office do not.
		return resp, again(err) && !leader.IsLeader(), err
	}
	reign, stop := leader.Following(ctx)
	defer stop()
	conn, err := leader.Conn(wait)
	if err != nil {
		return nil, again(err), err
	}
	out, err := s.newResponse(c.method)
	if err != nil {
		return nil, false, err
	}
	signed, err := s.sign(reign, c)
	if err != nil {
		return nil, false, err
	}
	err = fromStatus(conn.Invoke(signed, c.method.name, req, out))
	switch {
	case err == nil:
		return out, false, nil
	case reign.Err() != nil && ctx.Err() == nil:
		return nil, true, Errorf(errdefs.ErrUnavailable, "%s: the leader was lost while it did the work", c.method.name)
	case errdefs.IsCanceled(err) && ctx.Err() == nil:
		// Not by the caller: this manager closed the connection, for it stops or the leader moved.
		return nil, true, Errorf(errdefs.ErrUnavailable, "%s: the way to the leader was closed while it did the work", c.method.name)
	}
	return nil, again(err), err
}

// again reports whether a try failed because there was no leader to do it, or
// the leader was lost before its end was known.
func again(err error) bool {
	r := RefusalOf(err)
	switch {
	case r.GetNotLeader() != nil, r.GetNoQuorum() != nil, r.GetUnknown() != nil:
		return true
	case r.GetAct() != nil:
		return false
	}
	return errdefs.IsUnavailable(err)
}

// gaveUp says why no leader did the work: in the words people know if there is
// none, else with the last reason.
func (s *Server) gaveUp(ctx context.Context, leader Leader, last error) error {
	r := RefusalOf(last)
	switch {
	case r.GetNoQuorum() != nil, r.GetUnknown() != nil:
		return last
	case r.GetNotLeader() != nil:
		return s.noLeader(ctx, leader)
	}
	if err := s.noLeader(ctx, leader); len(RefusalOf(err).GetNoQuorum().GetUnreachable()) > 0 {
		return err
	}
	return last
}

// noLeader asks the manager's Conn once more, without waiting, for the names of
// those who are missing.
func (s *Server) noLeader(ctx context.Context, leader Leader) error {
	now, stop := context.WithCancel(context.WithoutCancel(ctx))
	stop() // it must not wait
	if _, err := leader.Conn(now); RefusalOf(err).GetNoQuorum() != nil {
		return err
	}
	return RefuseNoLeader(nil, 0, 0)
}

func (s *Server) newResponse(m *method) (proto.Message, error) {
	t, err := protoregistry.GlobalTypes.FindMessageByName(m.output)
	if err != nil {
		return nil, fmt.Errorf("forward %s: its answer: %w", m.name, err)
	}
	return t.New().Interface(), nil
}

// sign returns ctx with the metadata that says for whom the call is carried.
func (s *Server) sign(ctx context.Context, c *call) (context.Context, error) {
	p := passport{Kind: c.caller.Kind, User: c.caller.User, At: c.caller.At, Address: c.caller.Address}
	if who := c.caller.Identity; c.caller.Kind == Node {
		p.Cluster, p.Node, p.Generation = who.Cluster, who.Node, who.Generation
		p.Key, p.NotBefore, p.NotAfter = who.KeySHA256[:], who.NotBefore, who.NotAfter
		p.CertRole, p.Since = int32(who.Role), c.proof.Since
	}
	if who := c.caller.Person; !who.IsZero() {
		p.Cluster, p.Person, p.Generation, p.Since = who.Cluster, who.User, who.Generation, c.user.Since
		p.Key, p.NotBefore, p.NotAfter = who.KeySHA256[:], who.NotBefore, who.NotAfter
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("forward %s: %w", c.method.name, err)
	}
	out := metadata.Pairs(mdForwarded, "1", mdCaller, string(text))
	if StaleAsked(ctx) {
		out.Set(mdStale, "1")
	}
	return metadata.NewOutgoingContext(ctx, out), nil
}

// forwardedCaller puts the original caller in the place of the manager that
// carried the call, if one did. Only a manager by its live record may.
func (s *Server) forwardedCaller(ctx context.Context, c *call) error {
	if len(metadata.ValueFromIncomingContext(ctx, mdForwarded)) == 0 {
		return nil
	}
	name := c.method.name
	switch {
	case c.caller.Kind != Node || !c.method.policy.GetLeader():
		return Errorf(errdefs.ErrPermissionDenied, "%s: %s may not carry calls for others", name, c.caller.Key())
	case c.office.authorizer == nil:
		// It led a moment ago, or its carrier thought so; nothing was done.
		return Refuse(Errorf(errdefs.ErrUnavailable, "%s: it was carried to a manager that is starting or stopping", name), "try again in a moment")
	}
	if c.proof.Expired {
		return expired(c.proof, s.self())
	}
	role, err := c.carrier(ctx)
	if errdefs.IsUnauthorized(err) {
		// The carrier has been given another certificate and may not have it yet.
		// The caller is not to blame, and the carrier shall try again.
		return Errorf(errdefs.ErrUnavailable, "%s: carried by node %s: %v", name, c.caller.Node, err)
	}
	if err != nil {
		return err
	}
	if role != modelv1.Role_ROLE_MANAGER && c.office.authorizer.Member(ctx, c.proof) == nil {
		// A member without the role is on its way to it; what it carries is nobody's fault.
		return Errorf(errdefs.ErrUnavailable, "%s: node %s is being made a manager and may not carry calls yet", name, c.caller.Node)
	}
	if role != modelv1.Role_ROLE_MANAGER {
		return Errorf(errdefs.ErrPermissionDenied, "%s: node %s is not a manager and may not carry calls for others", name, c.caller.Node)
	}
	values := metadata.ValueFromIncomingContext(ctx, mdCaller)
	if len(values) != 1 {
		return Errorf(errdefs.ErrInvalidArgument, "%s: forwarded without its caller", name)
	}
	original, since, err := readPassport(values[0])
	if err != nil {
		return Errorf(errdefs.ErrInvalidArgument, "%s: forwarded: %v", name, err)
	}
	original.Via = c.caller.Node
	c.caller, c.forwarded = original, true
	switch {
	case original.Kind == Node:
		c.proof = c.newProof(since, false)
	case !original.Person.IsZero():
		c.user = c.newUserProof(since, false)
	}
	return nil
}

// carrier returns the role of the node that carries a call. One that is none of a
// manager is looked up again behind a barrier: a replica that has just been started
// may not know yet whom it was told of as a manager.
func (c *call) carrier(ctx context.Context) (modelv1.Role, error) {
	role, err := c.office.authorizer.Node(ctx, c.proof)
	if err != nil || role == modelv1.Role_ROLE_MANAGER || c.office.leader == nil {
		return role, err
	}
	ctx, stop := context.WithTimeout(ctx, defaultElection)
	defer stop()
	if err := c.office.leader.Barrier(ctx); err != nil {
		return 0, Errorf(errdefs.ErrUnavailable, "node %s carries a call and is no manager as far as is known here, which may be out of date: %v", c.caller.Node, err)
	}
	return c.office.authorizer.Node(ctx, c.proof)
}

func (p passport) key() (ca.Digest, error) {
	key, err := ca.DigestFromBytes(p.Key)
	if err != nil {
		return ca.Digest{}, fmt.Errorf("caller's key: %w", err)
	}
	return key, nil
}

func readPassport(text string) (Caller, time.Time, error) {
	var p passport
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return Caller{}, time.Time{}, fmt.Errorf("caller: %w", err)
	}
	out := Caller{Kind: p.Kind, Address: p.Address}
	switch p.Kind {
	case Anyone:
	case User:
		out.User, out.At = p.User, p.At
		if p.Person.IsZero() {
			break
		}
		key, err := p.key()
		if err != nil {
			return Caller{}, time.Time{}, err
		}
		out.Person = ca.UserIdentity{Cluster: p.Cluster, User: p.Person, Name: p.User, Generation: p.Generation,
			KeySHA256: key, NotBefore: p.NotBefore, NotAfter: p.NotAfter}
	case Node:
		key, err := p.key()
		if err != nil {
			return Caller{}, time.Time{}, err
		}
		out.Node = p.Node
		out.Identity = ca.Identity{Cluster: p.Cluster, Node: p.Node, Role: modelv1.Role(p.CertRole), Generation: p.Generation,
			KeySHA256: key, NotBefore: p.NotBefore, NotAfter: p.NotAfter}
	default:
		return Caller{}, time.Time{}, fmt.Errorf("caller: unknown kind %d", p.Kind)
	}
	return out, p.Since, nil
}
