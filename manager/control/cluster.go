package control

import (
	"context"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// cluster returns the cluster, which there is on every manager that serves.
func cluster(snap *store.Snapshot) (*modelv1.Cluster, error) {
	if c := snap.Cluster(); c != nil {
		return c, nil
	}
	return nil, rpc.Errorf(errdefs.ErrUnavailable, "this manager does not hold the swarm's state yet")
}

// redacted returns a copy of c without keys and tokens.
func redacted(c *modelv1.Cluster) *modelv1.Cluster {
	c = proto.CloneOf(c)
	c.WorkerToken, c.ManagerToken, c.PreviousWorkerToken, c.PreviousManagerToken, c.UnlockKey = nil, nil, nil, nil, nil
	if c.GetRoot() != nil {
		c.Root.Key = nil
		withoutKeys(c.GetRoot().GetExternal())
	}
	if c.GetRoot().GetLast() != nil {
		c.Root.Last.Stragglers = nil // there are users among them: GetRoot names them to who may know
	}
	if c.GetCondemnation() != nil {
		c.Condemnation.By = ""
	}
	if c.GetCondemned() != nil {
		c.Condemned.Stragglers = nil // as above
	}
	if r := c.GetRoot().GetRotation(); r != nil {
		r.By = ""
		for _, k := range []*modelv1.RootKey{r.GetFrom(), r.GetTo()} {
			if k == nil {
				continue
			}
			k.Key = nil
			withoutKeys(k.GetExternal())
		}
	}
	return c
}

// withoutKeys takes out of external CAs, the caller's own copies, what is secret.
func withoutKeys(cas []*modelv1.ExternalCA) {
	for _, at := range cas {
		at.AuthKey = nil
	}
}

// GetCluster shows the cluster without its keys and tokens.
func (s *Server) GetCluster(context.Context, *controlv1.GetClusterRequest) (*controlv1.GetClusterResponse, error) {
	snap := s.snapshot()
	c, err := cluster(snap)
	if err != nil {
		return nil, err
	}
	resp := &controlv1.GetClusterResponse{Cluster: redacted(c)}
	for n := range snap.Nodes() {
		resp.Nodes++
		if n.GetRole() == modelv1.Role_ROLE_MANAGER {
			resp.Managers++
		}
		if membership(n) == waiting {
			resp.PendingNodes++
		}
	}
	for t := range snap.Tokens() {
		if t.GetEnd() == 0 {
			resp.ActiveTokens++
		}
	}
	for m := range snap.Members() {
		resp.ManagerAddresses = append(resp.ManagerAddresses, m.GetAddress())
	}
	slices.Sort(resp.ManagerAddresses)
	return resp, nil
}

// UpdateCluster replaces the operator's part of the cluster.
func (s *Server) UpdateCluster(ctx context.Context, msg *controlv1.UpdateClusterRequest) (*controlv1.UpdateClusterResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if _, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.UpdateClusterResponse{Cluster: redacted(s.snapshot().Cluster())}, err
	}
	if err := checkCluster(msg.GetSpec()); err != nil {
		return nil, err
	}
	if err := s.checkExternal(ctx, msg); err != nil {
		return nil, err
	}
	workerToken, managerToken := ca.NewTokenSecret(), ca.NewTokenSecret()
	unlock := sealed.NewUnlockKey()
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		if have := c.GetMeta().GetVersion(); have != msg.GetVersion() && msg.GetVersion() != 0 {
			return outOfSequence("the swarm", have, msg.GetVersion())
		}
		c = proto.CloneOf(c)
		c.Spec = msg.GetSpec()
		stand(c, workerToken, managerToken)
		autolock(c, unlock)
		if len(msg.GetExternal()) > 0 {
			if err := s.cfg.Roots.Move(c, msg.GetExternal()); err != nil {
				return err
			}
		}
		return tx.PutCluster(c)
	})
	if err != nil {
		return nil, err
	}
	return &controlv1.UpdateClusterResponse{Cluster: redacted(s.snapshot().Cluster())}, nil
}

// checkExternal refuses external CAs that do not sign for the swarm's root, or sign for
// longer than certificates are to live: they are tried before anything is written.
func (s *Server) checkExternal(ctx context.Context, msg *controlv1.UpdateClusterRequest) error {
	cas := msg.GetExternal()
	var f faults
	f.external(cas)
	if err := f.refusal("swarm"); err != nil {
		return err
	}
	c, err := cluster(s.snapshot())
	if err != nil {
		return err
	}
	old, spec := c.GetSpec(), msg.GetSpec()
	c = proto.CloneOf(c)
	c.Spec = spec
	switch {
	case len(cas) > 0:
		if err := s.cfg.Roots.Move(c, cas); err != nil {
			return err
		}
	case old.GetCertExpiry() == spec.GetCertExpiry() && old.GetManagerCertExpiry() == spec.GetManagerCertExpiry():
		return nil
	}
	return s.cfg.Roots.Try(ctx, c, c.GetRoot().GetExternal())
}

// outOfSequence refuses a change that was made from another version.
func outOfSequence(thing string, have, from uint64) error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrAborted, "update out of sequence: %s is at version %d, the change was made from %d", thing, have, from),
		"read it again and repeat the change")
}

// The least a setting may be.
const (
	minHeartbeat = 100 * time.Millisecond
	minLease     = 3 // heartbeats
	// minDeadManager is longer than a daemon that restarts is waited for.
	minDeadManager = time.Minute
	// minTokenRotation leaves time to use what was printed.
	minTokenRotation = 10 * time.Minute
	// What 0 stands for, as the cluster's spec says.
	defaultHeartbeat = 2 * time.Second
	defaultLease     = 10 * time.Second
)

func checkCluster(spec *modelv1.ClusterSpec) error {
	var f faults
	f.check(spec != nil, "spec: missing")
	beat, lease := time.Duration(spec.GetHeartbeatPeriod()), time.Duration(spec.GetLease())
	f.check(beat == 0 || beat >= minHeartbeat, "heartbeat %v: at least %v", beat, minHeartbeat)
	if beat == 0 {
		beat = defaultHeartbeat
	}
	if lease == 0 {
		lease = defaultLease
	}
	f.check(lease >= minLease*beat, "lease %v: at least %d heartbeats of %v", lease, minLease, beat)
	for what, d := range map[string]int64{"certificate expiry": spec.GetCertExpiry(), "manager certificate expiry": spec.GetManagerCertExpiry()} {
		f.check(d == 0 || time.Duration(d) >= ca.MinExpiry, "%s %v: at least %v", what, time.Duration(d), ca.MinExpiry)
	}
	dead := time.Duration(spec.GetDeadManagerRemoval())
	f.check(dead == 0 || dead >= minDeadManager, "dead manager removal %v: at least %v, or 0 for never", dead, minDeadManager)
	rotation := time.Duration(spec.GetTokenRotation())
	f.check(rotation == 0 || rotation >= minTokenRotation, "token rotation %v: at least %v, or 0 for never", rotation, minTokenRotation)
	_, known := modelv1.ExpiredRenewal_name[int32(spec.GetExpiredRenewal())]
	f.check(known, "expired renewal: want auto, approve or never")
	f.check(spec.GetExpiredGrace() >= 0, "expired grace %v: less than nothing", time.Duration(spec.GetExpiredGrace()))
	f.labels("label", spec.GetLabels())
	return f.refusal("swarm")
}

// noStanding refuses what only a standing token could serve.
func noStanding() error {
	return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the swarm has no standing tokens: they are turned off"),
		`make one for the nodes that are to join with "ctl swarm token create", or turn them on with "ctl swarm update --standing-tokens on"`)
}

// stand gives the cluster the standing tokens that its settings want: none, or
// the given ones where it has none. While nodes are condemned there are none.
func stand(c *modelv1.Cluster, worker, manager sealed.Secret) {
	if c.GetSpec().GetNoStandingTokens() || c.GetCondemnation() != nil {
		c.WorkerToken, c.ManagerToken, c.PreviousWorkerToken, c.PreviousManagerToken, c.PreviousUntil = nil, nil, nil, nil, 0
		return
	}
	if len(c.GetWorkerToken()) == 0 {
		c.WorkerToken = worker.Reveal()
	}
	if len(c.GetManagerToken()) == 0 {
		c.ManagerToken = manager.Reveal()
	}
}

// tokenOf returns the standing token of a role.
func tokenOf(c *modelv1.Cluster, role modelv1.Role) (secret []byte, err error) {
	switch role {
	case modelv1.Role_ROLE_WORKER:
		return c.GetWorkerToken(), nil
	case modelv1.Role_ROLE_MANAGER:
		return c.GetManagerToken(), nil
	}
	return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "join token: want the role worker or manager")
}

// spell returns the whole join token of a role.
func spell(c *modelv1.Cluster, role modelv1.Role) (string, error) {
	secret, err := tokenOf(c, role)
	if err != nil {
		return "", err
	}
	if c.GetSpec().GetNoStandingTokens() {
		return "", noStanding()
	}
	root := store.PinnedRoot(c.GetRoot())
	if len(secret) == 0 || root == nil {
		return "", rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "the swarm has no standing %s token", roleName(role)),
			"make one with: ctl swarm join-token --rotate "+roleName(role))
	}
	t := ca.Token{Digest: ca.RootDigest(root), Secret: sealed.NewSecret(secret), FIPS: c.GetFips()}
	return t.Reveal(), nil
}

// joinAddress returns where to join: this manager, if it is one of the group,
// else the first that is.
func (s *Server) joinAddress(snap *store.Snapshot) string {
	if m := snap.MemberByNode(s.cfg.Self); m != nil {
		return m.GetAddress()
	}
	for m := range snap.Members() {
		return m.GetAddress()
	}
	return ""
}

// GetJoinToken shows the standing token of a role.
func (s *Server) GetJoinToken(_ context.Context, msg *controlv1.GetJoinTokenRequest) (*controlv1.GetJoinTokenResponse, error) {
	snap := s.snapshot()
	c, err := cluster(snap)
	if err != nil {
		return nil, err
	}
	if err := s.noTokens(c); err != nil {
		return nil, err
	}
	token, err := spell(c, msg.GetRole())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetJoinTokenResponse{Token: token, Address: s.joinAddress(snap)}, nil
}

// RotateJoinToken draws a new standing token; the old one joins nobody any more. Who
// may only rotate it is not shown it: one for managers would make him one.
func (s *Server) RotateJoinToken(ctx context.Context, msg *controlv1.RotateJoinTokenRequest) (*controlv1.RotateJoinTokenResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if _, err := tokenOf(nil, msg.GetRole()); err != nil {
		return nil, err
	}
	secret := ca.NewTokenSecret()
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		c, err := cluster(tx.Snapshot)
		if err != nil {
			return err
		}
		c = proto.CloneOf(c)
		if c.GetSpec().GetNoStandingTokens() {
			return noStanding()
		}
		if err := s.noTokens(c); err != nil {
			return err
		}
		// By hand it is done because the old one is not to be trusted: no overlap.
		if msg.GetRole() == modelv1.Role_ROLE_MANAGER {
			c.ManagerToken, c.PreviousManagerToken = secret.Reveal(), nil
		} else {
			c.WorkerToken, c.PreviousWorkerToken = secret.Reveal(), nil
		}
		return tx.PutCluster(c)
	})
	if err != nil {
		return nil, err
	}
	snap := s.snapshot()
	if !isAdmin(ctx) {
		return &controlv1.RotateJoinTokenResponse{Address: s.joinAddress(snap)}, nil
	}
	token, err := spell(snap.Cluster(), msg.GetRole())
	if err != nil {
		return nil, err
	}
	return &controlv1.RotateJoinTokenResponse{Token: token, Address: s.joinAddress(snap)}, nil
}

// roleName is a role as people type it.
func roleName(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}
