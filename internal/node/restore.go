package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager"
	"github.com/skep-project/skep/manager/backup"
	"github.com/skep-project/skep/manager/witness"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Restore founds a swarm again from a backup. The restoring machine becomes its
// only manager: as a new node, or, if it holds the identity of one of the
// backup's nodes, as that.
func (l *local) Restore(stream grpc.ClientStreamingServer[localv1.RestoreRequest, localv1.RestoreResponse]) error {
	ctx := stream.Context()
	if err := here(ctx); err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetOptions() == nil {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "restore: the first message has no options")
	}
	im, err := backup.Read(&restoreStream{in: stream, rest: first.GetData()})
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	resp, err := l.node.restore(ctx, first.GetOptions(), im)
	if err != nil {
		return err
	}
	return stream.SendAndClose(resp)
}

// restore founds the swarm and waits until this node leads it.
func (n *Node) restore(ctx context.Context, opts *localv1.RestoreOptions, im *backup.Image) (*localv1.RestoreResponse, error) {
	r := &restoration{node: n, opts: opts, image: im, by: witness.Deed(ctx), answer: &localv1.RestoreResponse{Manifest: im.Manifest}}
	if err := r.judge(ctx); err != nil {
		return nil, err
	}
	if err := n.give(ctx, order{before: r.allowed, do: r.found}); err != nil {
		return nil, err
	}
	life, err := n.awaitLife(ctx)
	if err != nil {
		return nil, err
	}
	token, address, err := life.leads(ctx)
	if err != nil {
		return nil, err
	}
	life.heard(ctx)
	r.answer.Node, r.answer.WorkerToken, r.answer.Address = life.who.Node.Bytes(), token, address
	return r.answer, nil
}

// A restoration is one swarm being founded again.
type restoration struct {
	node   *Node
	opts   *localv1.RestoreOptions
	image  *backup.Image
	by     *logv1.Deed
	answer *localv1.RestoreResponse
}

// judge looks at the backup and at the world: a state that contradicts itself,
// and a swarm that may still be alive, are restored only by force.
func (r *restoration) judge(ctx context.Context) error {
	if r.image.Store.Snapshot().Cluster().GetFips() && !r.node.cfg.FIPS {
		return errNotFIPS("restore: the swarm asks for FIPS 140-3 mode of each node")
	}
	r.answer.Faults = r.image.Check(time.Now())
	if len(r.answer.Faults) > 0 && !r.opts.GetForce() {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrDataLoss, "restore: the backup contradicts itself: %s", strings.Join(r.answer.Faults, "; ")),
			"take another backup; --force restores this one as it is")
	}
	r.answer.Answered = r.alive(ctx)
	if len(r.answer.Answered) > 0 && !r.opts.GetForce() {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition,
			"restore: the swarm may still be alive: its managers answer at %s. Two swarms with one id run everything twice and take each other's nodes",
			strings.Join(r.answer.Answered, ", ")),
			"stop those daemons first; or, if their swarm is to be given up, say --force")
	}
	return nil
}

// aliveTime bounds the look for managers of the backup's swarm.
const aliveTime = 3 * time.Second

// alive returns the addresses of the backup's managers at which one of the swarm
// answers, this node's own aside.
func (r *restoration) alive(ctx context.Context) []string {
	snap := r.image.Store.Snapshot()
	roots := snap.Cluster().GetRoot().GetCertificates()
	if len(roots) == 0 {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, aliveTime)
	defer stop()
	var own id.ID
	if _, life, _ := r.node.get(); life != nil {
		own = life.who.Node
	}
	var mu sync.Mutex // guards out
	var out []string
	var wg sync.WaitGroup
	for m := range snap.Members() {
		if string(m.GetNode()) == string(own.Bytes()) {
			continue
		}
		wg.Go(func() {
			_, err := client.Probe(ctx, m.GetAddress(), ca.RootDigest(roots[0]), r.node.cfg.Outside.dial())
			if err == nil || errors.Is(err, ca.ErrClock) {
				mu.Lock()
				defer mu.Unlock()
				out = append(out, m.GetAddress())
			}
		})
	}
	wg.Wait()
	slices.Sort(out)
	return out
}

// allowed refuses to restore over what this node is: a member of another swarm,
// a stranger to the backup, or, but by force, a manager whose own log may be
// newer.
func (r *restoration) allowed(ctx context.Context, life *life) error {
	if life == nil || life.who.Cluster != r.image.Cluster() {
		return r.node.refuseIfTaken(ctx, life)
	}
	if r.image.Store.Snapshot().Node(life.who.Node) == nil {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "restore: this node came into the swarm after the backup was made: it is not in it"),
			`leave with "ctl swarm leave --force" first, which removes its containers, or restore on another host`)
	}
	if life.hasLog() && !r.opts.GetForce() {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "restore: this node is a manager of the swarm and has a log of its own, which may be newer than the backup"),
			`"ctl swarm init --force-new-cluster" goes on from that log; --force gives it up for the backup`)
	}
	return nil
}

// found makes the swarm on the disk: log and ring first, the identity last, as
// for a new one.
func (r *restoration) found(ctx context.Context) error {
	n, snap := r.node, r.image.Store.Snapshot()
	former, err := r.former()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	was := former.facts()
	at, err := chooseEndpoint(machine{}, orString(r.opts.GetListenAddr(), was.Listen), orString(r.opts.GetAdvertiseAddr(), was.Advertise))
	if err != nil {
		return err
	}
	node := id.New()
	if former != nil {
		node = former.who.Node
	}
	me, cert, err := r.identity(ctx, node, former)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	me.Facts = keystore.Facts{
		Advertise: at.advertise, Listen: at.listen, Interface: interfaceOf(machine{}, at), Availability: orActive(r.opts.GetAvailability()),
		FIPS: snap.Cluster().GetFips(),
		// A journal that is kept knows this node by another key.
		Named: &cav1.ManagerList{Managers: []*cav1.Manager{{Node: node.Bytes(), Address: at.advertise, Keys: [][]byte{cert.GetKeySha256()}}}},
	}
	if err := r.clear(ctx, former); err != nil {
		return err
	}
	c := snap.Cluster()
	if err := n.keys.Relock(sealed.NewSecret(c.GetUnlockKey()), c.GetUnlockNumber(), r.resealJournal(former)); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	ring := sealed.NewRing()
	if err := n.keys.SaveRing(ring.Proto()); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	index, err := manager.Restore(manager.Log{
		Dir: n.cfg.StateDir, RaftID: manager.NewRaftID(), Cluster: r.image.Cluster(), History: id.New(), Node: node, Ring: ring, By: r.by, Log: n.cfg.Log,
	}, r.image.Store, r.record(node, former, cert, at), at.advertise)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := (facts{Member: index}).write(n.state); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if err := n.keys.Save(me); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	r.answer.KeptIdentity, r.answer.Others = former != nil, uint32(snap.Census().Nodes) //nolint:gosec // nodes are few
	if former != nil {
		r.answer.Others--
	}
	n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "a swarm was restored from a backup", slog.String("node", node.String()),
		slog.String("cluster", r.image.Cluster().String()), slog.Uint64("backup", r.image.Manifest.GetIndex()), slog.Uint64("index", index))
	return nil
}

// formerSelf is this machine as a node of the backup's swarm; nil if it is none.
type formerSelf struct {
	kept *keystore.Node
	who  ca.Identity
}

func (f *formerSelf) facts() keystore.Facts {
	if f == nil {
		return keystore.Facts{}
	}
	return f.kept.Facts
}

// former returns what this node was, if allowed let it be restored over.
func (r *restoration) former() (*formerSelf, error) {
	kept, err := r.node.keys.Load()
	if err != nil {
		return nil, nil //nolint:nilerr // no identity, or none that can be used: a new node
	}
	cred, err := kept.Credential()
	if err != nil || cred.Identity.Cluster != r.image.Cluster() {
		return nil, err
	}
	return &formerSelf{kept: kept, who: cred.Identity}, nil
}

// identity makes this node's key and has the backup's authority sign it: never
// with the generation of a certificate there has been.
func (r *restoration) identity(ctx context.Context, node id.ID, former *formerSelf) (*keystore.Node, *modelv1.Certificate, error) {
	n, snap := r.node, r.image.Store.Snapshot()
	c := snap.Cluster()
	p := ca.Profile{Cluster: r.image.Cluster(), Node: node, Role: modelv1.Role_ROLE_MANAGER, Generation: 1}
	if former != nil {
		p.Generation = 1 + max(former.who.Generation, snap.Node(node).GetCurrent().GetGeneration())
	}
	p.Lifetime = ca.Lifetime(p.Role, c.GetSpec())
	return n.ownIdentity(ctx, p, c.GetRoot(), time.Now())
}

// record is this node's record in the new state.
func (r *restoration) record(node id.ID, former *formerSelf, cert *modelv1.Certificate, at endpoint) *modelv1.Node {
	if former != nil {
		self := proto.CloneOf(r.image.Store.Snapshot().Node(node))
		self.Current, self.Previous = cert, nil
		if a := r.opts.GetAvailability(); a != modelv1.Availability_AVAILABILITY_UNSPECIFIED {
			self.Spec.Availability = a
		}
		return self
	}
	return &modelv1.Node{
		Id:   node.Bytes(),
		Spec: &modelv1.NodeSpec{Role: modelv1.Role_ROLE_MANAGER, Availability: orActive(r.opts.GetAvailability())},
		Role: modelv1.Role_ROLE_MANAGER, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED, Current: cert,
		Description: &modelv1.NodeDescription{Hostname: r.node.cfg.Hostname, Version: version.Version, Address: at.host(), Fips: r.node.cfg.FIPS},
	}
}

// clear makes room: a node that stays itself keeps its journal and containers.
func (r *restoration) clear(ctx context.Context, former *formerSelf) error {
	if former != nil {
		return r.node.clearManager()
	}
	return r.node.clear(ctx)
}

// resealJournal seals the journal of a node that stays itself anew.
func (r *restoration) resealJournal(former *formerSelf) func(was, kek sealed.Secret) error {
	return func(was, kek sealed.Secret) error {
		if former == nil {
			return nil
		}
		return agent.ResealJournal(filepath.Join(r.node.cfg.StateDir, agentDir), was, kek, former.who.Cluster, former.who.Node)
	}
}
