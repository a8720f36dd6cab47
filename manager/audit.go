package manager

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/witness"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	raftv1 "github.com/skep-project/skep/proto/skep/raft/v1"
)

// newWitness joins the witness with the way to the leader.
func (m *Manager) newWitness() *witness.Gatherer {
	return witness.New(witness.Config{Self: m.cfg.Node, Tell: m.tellLeader, Log: m.cfg.Log})
}

// tellLeader has what this manager saw written into the audit trail.
func (m *Manager) tellLeader(ctx context.Context, sights []*logv1.Sight) error {
	o := office{m}
	if o.IsLeader() {
		return m.record(ctx, m.cfg.Node, sights)
	}
	conn, err := o.Conn(ctx)
	if err != nil {
		return err
	}
	_, err = raftv1.NewMembersClient(conn).Witness(ctx, &raftv1.WitnessRequest{Sights: sights})
	return err
}

// record writes down what a manager saw.
func (m *Manager) record(ctx context.Context, by id.ID, sights []*logv1.Sight) error {
	if err := witness.Check(by, sights); err != nil {
		return err
	}
	return m.inscribe(ctx, &logv1.Transaction{Sights: sights})
}

func (m *Manager) inscribe(ctx context.Context, t *logv1.Transaction) error {
	tx, err := proto.Marshal(t)
	if err != nil {
		return fmt.Errorf("encode for the audit trail: %w", err)
	}
	return m.commit(ctx, tx)
}

// checkpointBeat is how often it is looked whether the trail wants a checkpoint.
const checkpointBeat = 30 * time.Second

// checkpoints has the CA sign the audit trail now and then, for a tenure.
func (m *Manager) checkpoints(ctx context.Context) error {
	t := time.NewTicker(checkpointBeat)
	defer t.Stop()
	for {
		snap := m.store.Snapshot()
		c := snap.Cluster()
		if c != nil && snap.Trail().WantsCheckpoint(snap.Now()) {
			v := &audit.Seal{Cluster: spell(c.GetId()), History: spell(c.GetHistory()), Seq: snap.Trail().Last(), Hash: snap.Trail().Head(), At: snap.Now()}
			if err := m.seal(c.GetRoot(), audit.ForTrail, v); err != nil {
				return err
			}
			err := m.inscribe(ctx, &logv1.Transaction{Seal: &logv1.Seal{
				Cluster: c.GetId(), History: c.GetHistory(), Seq: v.Seq, Hash: v.Hash[:], At: v.At.UnixNano(), Root: v.Root[:], Signature: v.Signature, Manager: v.Manager,
			}})
			if err != nil {
				return fmt.Errorf("checkpoint of the audit trail: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// seal signs with the root's key or, where an external CA keeps that, with this
// manager's own, which the root has certified.
func (m *Manager) seal(root *modelv1.RootCA, p audit.Purpose, s *audit.Seal) error {
	if key := root.GetKey(); len(key) > 0 || len(root.GetExternal()) == 0 {
		return s.Sign(p, root.GetCertificates(), sealed.NewSecret(key))
	}
	own := m.cfg.Credential.Get()
	key, ok := own.TLS().PrivateKey.(crypto.Signer)
	if !ok {
		return errors.New("sign a checkpoint: this manager's key is of a kind that does not sign")
	}
	return s.SignAs(p, root.GetCertificates(), own.Leaf, key)
}

// spell is an id as people read it; "" if it is none.
func spell(b []byte) string {
	x, err := id.FromBytes(b)
	if err != nil || x.IsZero() {
		return ""
	}
	return x.String()
}
