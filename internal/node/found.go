package node

import (
	"context"
	"crypto/ecdsa"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// found makes a swarm of one on the disk, as by asked for: log and ring first, the identity last,
// because a node with an identity is a member and before that it is nothing.
func (n *Node) found(ctx context.Context, req *localv1.InitRequest, by *logv1.Deed) error {
	at, err := chooseEndpoint(machine{}, req.GetListenAddr(), req.GetAdvertiseAddr())
	if err != nil {
		return err
	}
	if req.GetFips() && !n.cfg.FIPS {
		return errNotFIPS("found a swarm with --fips")
	}
	if err := n.clear(ctx); err != nil {
		return err
	}
	now := time.Now()
	cluster, history, node := id.New(), id.New(), id.New()
	root, err := n.firstRoot(ctx, cluster, req, now)
	if err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	me, record, err := n.ownIdentity(ctx, ca.Profile{
		Cluster: cluster, Node: node, Role: modelv1.Role_ROLE_MANAGER, Generation: 1,
		Lifetime: ca.Lifetime(modelv1.Role_ROLE_MANAGER, req.GetSpec()),
	}, root, now)
	if err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	me.Facts = keystore.Facts{Advertise: at.advertise, Listen: at.listen, Interface: interfaceOf(machine{}, at), Availability: req.GetAvailability(), FIPS: req.GetFips()}
	unlock, number := unlockOf(req.GetSpec())
	// Before the ring is there: it never lies under a key that lies in clear.
	if err := n.keys.Relock(unlock, number, nil); err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	ring := sealed.NewRing()
	raftID := manager.NewRaftID()
	first := &logv1.Transaction{Deed: by, Units: []*logv1.Unit{{Operations: []*logv1.Operation{
		{Op: &logv1.Operation_PutCluster{PutCluster: &modelv1.Cluster{
			Id: cluster.Bytes(), History: history.Bytes(), Spec: orEmpty(req.GetSpec()),
			Root:        root,
			WorkerToken: standing(req.GetSpec()), ManagerToken: standing(req.GetSpec()),
			FeatureLevel: version.FeatureLevel, UnlockKey: unlock.Reveal(), UnlockNumber: number, Fips: req.GetFips(),
		}}},
		{Op: &logv1.Operation_PutNode{PutNode: &modelv1.Node{
			Id:   node.Bytes(),
			Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_MANAGER, Availability: orActive(req.GetAvailability())},
			Role: modelv1.Role_ROLE_MANAGER, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Current: record,
			Description: &modelv1.NodeDescription{Hostname: n.cfg.Hostname, Version: version.Version, Address: at.host(), Fips: n.cfg.FIPS},
		}}},
		{Op: &logv1.Operation_PutMember{PutMember: &modelv1.Member{
			RaftId: raftID, Node: node.Bytes(), Address: at.advertise,
			Kind: modelv1.MemberKind_MEMBER_KIND_FULL, Voter: true, FeatureLevel: version.FeatureLevel,
		}}},
	}}}}
	if err := n.keys.SaveRing(ring.Proto()); err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	err = manager.Bootstrap(manager.Log{
		Dir: n.cfg.StateDir, RaftID: raftID, Cluster: cluster, History: history, Node: node, Ring: ring, Log: n.cfg.Log,
	}, first)
	if err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	if err := (facts{Member: 1}).write(n.state); err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	if err := n.keys.Save(me); err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	n.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "swarm founded", slog.String("node", node.String()), slog.String("cluster", cluster.String()))
	return nil
}

// standing draws the secret of a standing token, nil if there are to be none.
func standing(s *modelv1.ClusterSpec) []byte {
	if s.GetNoStandingTokens() {
		return nil
	}
	return ca.NewTokenSecret().Reveal()
}

func orString(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func orEmpty(s *modelv1.ClusterSpec) *modelv1.ClusterSpec {
	if s == nil {
		return &modelv1.ClusterSpec{}
	}
	return s
}

func orActive(a modelv1.Availability) modelv1.Availability {
	if a == modelv1.Availability_AVAILABILITY_UNSPECIFIED {
		return modelv1.Availability_AVAILABILITY_ACTIVE
	}
	return a
}

// ownIdentity makes a founder's key and has its own root sign it, or the external CA
// that has the key of that.
func (n *Node) ownIdentity(ctx context.Context, p ca.Profile, root *modelv1.RootCA, now time.Time) (*keystore.Node, *modelv1.Certificate, error) {
	key, err := ca.NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return nil, nil, err
	}
	public, err := ca.ParseCSR(csr)
	if err != nil {
		return nil, nil, err
	}
	issuer, err := issuerOf(root)
	if err != nil {
		return nil, nil, err
	}
	record, err := issuer.Prepare(p, public, now)
	if err != nil {
		return nil, nil, err
	}
	chain, record, err := n.certify(ctx, p, root, issuer, record, csr)
	if err != nil {
		return nil, nil, err
	}
	return &keystore.Node{Key: key, Chain: chain, Roots: root.GetCertificates(), IssuedAt: time.Unix(0, record.GetIssuedAt())}, record, nil
}

// enrol buys this machine a certificate with a token (R16). Where it is to be
// reached is, unless said, where the manager was reached from.
func (n *Node) enrol(ctx context.Context, token ca.Token, req *localv1.JoinRequest) error {
	at, err := chooseEndpoint(machine{}, req.GetListenAddr(), req.GetAdvertiseAddr())
	if err != nil && req.GetAdvertiseAddr() != "" {
		return err
	}
	key, err := n.keys.Pending()
	if err != nil {
		return fmt.Errorf("join: %w", err)
	}
	got, err := client.Enroll(ctx, client.Join{
		Token: token, Remotes: withPort(req.GetRemotes()), Key: key,
		Availability: orActive(req.GetAvailability()), Hostname: n.cfg.Hostname,
		FIPS: n.cfg.FIPS, Dial: n.cfg.Outside.dial(),
	})
	if err != nil {
		return err
	}
	if req.GetAdvertiseAddr() == "" {
		if at, err = chooseEndpoint(machine{}, req.GetListenAddr(), got.LocalAddress); err != nil {
			return err
		}
	}
	return n.keep(got.Credential, key, keystore.Facts{
		Advertise: at.advertise, Listen: at.listen, Interface: interfaceOf(machine{}, at), Availability: orActive(req.GetAvailability()),
		Managers: got.Managers, ListedAt: time.Now(), FIPS: got.FIPS,
	})
}

// withPort gives each remote the default port if it names none.
func withPort(remotes []string) []string {
	out := make([]string, 0, len(remotes))
	for _, r := range remotes {
		if _, _, err := net.SplitHostPort(r); err != nil {
			r = net.JoinHostPort(strings.Trim(r, "[]"), strconv.Itoa(DefaultPort))
		}
		out = append(out, r)
	}
	return out
}

// keep saves an identity: from then on this node is a member.
func (n *Node) keep(cred *ca.Credential, key *ecdsa.PrivateKey, f keystore.Facts) error {
	me := &keystore.Node{Key: key, Chain: cred.Chain, Roots: cred.Roots.DER(), IssuedAt: cred.IssuedAt, Facts: f}
	if err := n.keys.Save(me); err != nil {
		return fmt.Errorf("keep the certificate: %w", err)
	}
	if err := n.keys.ClearPending(); err != nil {
		return fmt.Errorf("keep the certificate: %w", err)
	}
	return nil
}

// refound makes, as by asked for, a new cluster of one from this manager's copy of the state: new
// history, same ids, tokens and root (D11).
func (n *Node) refound(ctx context.Context, req *localv1.InitRequest, by *logv1.Deed) error {
	me, err := n.keys.Load()
	if err != nil {
		return err
	}
	cred, err := me.Credential()
	if err != nil {
		return err
	}
	ring, err := n.loadRing()
	if err != nil {
		return err
	}
	// The addresses others know, unless others are said.
	at, err := chooseEndpoint(machine{}, orString(req.GetListenAddr(), me.Facts.Listen), orString(req.GetAdvertiseAddr(), me.Facts.Advertise))
	if err != nil {
		return err
	}
	index, err := manager.ForceNew(manager.Log{
		Dir: n.cfg.StateDir, RaftID: manager.NewRaftID(), Cluster: cred.Identity.Cluster, History: id.New(),
		Node: cred.Identity.Node, Ring: ring, By: by, Log: n.cfg.Log,
	}, at.advertise)
	if err != nil {
		return fmt.Errorf("force new cluster: %w", err)
	}
	me.Facts.Advertise, me.Facts.Listen, me.Facts.Interface = at.advertise, at.listen, interfaceOf(machine{}, at)
	if err := n.keys.Save(me); err != nil {
		return fmt.Errorf("force new cluster: %w", err)
	}
	if err := (facts{Member: index}).write(n.state); err != nil {
		return fmt.Errorf("force new cluster: %w", err)
	}
	n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a new cluster was forced", slog.String("node", cred.Identity.Node.String()), slog.Uint64("index", index))
	return nil
}

func (n *Node) loadRing() (*sealed.Ring, error) {
	p, err := n.keys.LoadRing()
	if err != nil {
		return nil, err
	}
	return sealed.RingFromProto(p)
}

// wipe forgets the swarm: containers of ours, log, journal, ring, and last the
// identity, so that a wipe that was cut short is begun again.
func (n *Node) wipe(ctx context.Context) error {
	if cluster, node, err := n.keys.Who(); err == nil {
		if err := n.removeContainers(ctx, ca.Identity{Cluster: cluster, Node: node}); err != nil {
			n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "containers of the swarm were left behind", slog.Any("err", err))
		}
	}
	if err := n.clear(ctx); err != nil {
		return err
	}
	if err := n.keys.Wipe(); err != nil {
		return fmt.Errorf("leave: %w", err)
	}
	n.holder.Set(nil)
	n.setWait(wait{})
	n.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "node left the swarm")
	return nil
}

// clear removes what an identity that is not there any more left on the disk.
func (n *Node) clear(context.Context) error {
	if err := n.clearManager(); err != nil {
		return err
	}
	if err := n.state.RemoveAll(agentDir); err != nil {
		return fmt.Errorf("clear the state directory: %w", err)
	}
	return nil
}

// clearManager removes log, snapshots and ring (R24).
func (n *Node) clearManager() error {
	if err := manager.Remove(n.cfg.StateDir); err != nil {
		return fmt.Errorf("clear the state directory: %w", err)
	}
	if err := n.keys.RemoveRing(); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("clear the state directory: %w", err)
	}
	return facts{}.write(n.state)
}

// removeContainers stops and removes all containers of this node's tasks.
func (n *Node) removeContainers(ctx context.Context, who ca.Identity) error {
	rt, err := n.newRuntime(who)
	if err != nil {
		return err
	}
	defer rt.Close() //nolint:errcheck // what could be removed is removed
	return removeAll(ctx, rt, who)
}

// newRuntime returns the runtime of this node's containers.
func (n *Node) newRuntime(who ca.Identity) (runtime, error) {
	if n.cfg.Outside != nil {
		return lasting{n.cfg.Outside.Runtime(who.Cluster, who.Node)}, nil
	}
	return containerd.New(containerd.Config{
		Address: n.containerdAddress(), Cluster: who.Cluster, Node: who.Node,
		StateDir: filepath.Join(n.cfg.StateDir, agentDir), HostsDir: n.cfg.HostsDir,
		CgroupParent: n.cfg.CgroupParent, Log: n.cfg.Log,
	})
}

// agentDir holds the journal and the files of tasks.
const agentDir = "agent"
