package enrol

import (
	"bytes"
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// SettleNode records serial and times of a node's certificate as an external CA has
// made it.
func (m *Members) SettleNode(ctx context.Context, node id.ID, record *modelv1.Certificate) error {
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) error {
		n := tx.Node(node)
		if n == nil {
			return removed(node)
		}
		if !ofOne(n.GetCurrent(), record) {
			return rpc.Errorf(errdefs.ErrAborted, "node %s was given another certificate meanwhile", node)
		}
		n = proto.CloneOf(n)
		settle(n.GetCurrent(), record)
		return tx.PutNode(n)
	})
	return err
}

// SettleUser is SettleNode for a user.
func (m *Members) SettleUser(ctx context.Context, user id.ID, record *modelv1.Certificate) error {
	_, err := m.db.Update(ctx, nil, func(tx *store.Tx) error {
		u := tx.User(user)
		if u == nil {
			return rpc.Errorf(errdefs.ErrNotFound, "user %s was removed meanwhile", user)
		}
		if !ofOne(u.GetCurrent(), record) {
			return rpc.Errorf(errdefs.ErrAborted, "user %s was given another certificate meanwhile", u.GetName())
		}
		u = proto.CloneOf(u)
		settle(u.GetCurrent(), record)
		return tx.PutUser(u)
	})
	return err
}

// ofOne reports whether two records are of one certificate, which may have been signed
// more than once.
func ofOne(a, b *modelv1.Certificate) bool {
	return a.GetGeneration() == b.GetGeneration() && bytes.Equal(a.GetKeySha256(), b.GetKeySha256()) && bytes.Equal(a.GetIssuer(), b.GetIssuer())
}

func settle(to, as *modelv1.Certificate) {
	to.Serial, to.IssuedAt, to.NotBefore, to.NotAfter = as.GetSerial(), as.GetIssuedAt(), as.GetNotBefore(), as.GetNotAfter()
}
