package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
)

// comeBackTime bounds the way back to the managers.
const comeBackTime = 30 * time.Second

// mayComeBack refuses to join what is no fresh machine, unless it is a member of
// the token's own swarm that has no session with a manager: for one whose
// managers are elsewhere now, joining again is the way to tell it where.
func mayComeBack(ctx context.Context, life *life, token ca.Token) error {
	if life == nil {
		return nil
	}
	if _, ours := life.node.holder.Get().Roots.Find(token.Digest); !ours || life.agent.Status().Session.Manager != nil {
		return refuseIfMember(ctx, life)
	}
	return nil
}

// comeBack finds a manager of this node's own swarm at one of the remotes, has its
// certificate renewed there, and keeps the address beside the list it holds. The
// node stays what it is: id, journal and containers. Whether that manager is to
// be obeyed is for the agent to judge, by R1.
func (n *Node) comeBack(ctx context.Context, token ca.Token, remotes []string) error {
	ctx, stop := context.WithTimeout(ctx, comeBackTime)
	defer stop()
	me, err := n.keys.Load()
	if err != nil {
		return fmt.Errorf("join again: %w", err)
	}
	var errs []error
	for _, remote := range remotes {
		err := n.comeBackBy(ctx, remote, token, me)
		if err == nil {
			n.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "a manager of the swarm was found again", slog.String("addr", remote))
			return nil
		}
		errs = append(errs, fmt.Errorf("join again: manager %s: %w", remote, err))
		if errdefs.IsPermissionDenied(err) || errdefs.IsUnauthorized(err) {
			break // the others would say the same
		}
	}
	return errors.Join(errs...)
}

func (n *Node) comeBackBy(ctx context.Context, remote string, token ca.Token, me *keystore.Node) error {
	who, err := client.Probe(ctx, remote, token.Digest, n.cfg.Outside.dial())
	if err != nil {
		return err
	}
	key, err := n.keys.Pending()
	if err != nil {
		return err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return err
	}
	conn, err := rpc.Dial(remote, rpc.ClientTLS(n.holder, rpc.Peer{Node: who.Node, Keys: []ca.Digest{who.KeySHA256}}),
		rpc.Through(n.cfg.Outside.dial())...)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // one call was made on it
	resp, err := cav1.NewAuthorityClient(conn).Renew(ctx, &cav1.RenewRequest{Csr: csr, Token: token.Reveal()})
	if err != nil {
		return err
	}
	if resp.GetIssued() == nil {
		return rpc.Errorf(errdefs.ErrFailedPrecondition, "an operator has to accept node %s first", n.holder.Get().Identity.Node)
	}
	cred, err := client.Accept(resp.GetIssued(), key)
	if err != nil {
		return err
	}
	if old := n.holder.Get().Identity; cred.Identity.Cluster != old.Cluster || cred.Identity.Node != old.Node {
		return fmt.Errorf("it gave a certificate of node %s for node %s: %w", cred.Identity.Node, old.Node, errdefs.ErrDataLoss)
	}
	f := me.Facts
	f.Named, f.ListedAt = named(resp.GetIssued().GetManagers(), who, remote), time.Now()
	return n.keep(cred, key, f)
}

// named is the list a manager gave, with the manager itself at the address it was
// found at, which it need not know.
func named(list *cav1.ManagerList, who ca.Identity, remote string) *cav1.ManagerList {
	out := &cav1.ManagerList{Managers: list.GetManagers()}
	for _, m := range out.GetManagers() {
		if m.GetAddress() == remote && bytes.Equal(m.GetNode(), who.Node.Bytes()) {
			return out
		}
	}
	out.Managers = append(out.Managers, &cav1.Manager{Node: who.Node.Bytes(), Address: remote, Keys: [][]byte{who.KeySHA256[:]}})
	return out
}
