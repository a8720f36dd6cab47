package node

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/skep-project/skep/ca/keystore"
)

// lookAround is how often a manager looks whether its machine still has the
// address it is reached at.
const lookAround = 10 * time.Second

// errMoved ends a manager side that is begun again at another address.
var errMoved = errors.New("this machine has another address now")

// readdress returns me as reached where the machine is now (D11), and keeps it.
// What cannot be found out or kept leaves me as it was, and is said.
func (n *Node) readdress(ctx context.Context, me *keystore.Node) *keystore.Node {
	if n.cfg.Outside != nil {
		return me // its network is not the machine's
	}
	was := endpoint{listen: me.Facts.Listen, advertise: me.Facts.Advertise}
	at, err := n.whereNow(was, me.Facts.Interface)
	if err != nil {
		n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "others may not reach this node any more; name its address with ctl daemon --advertise-addr",
			slog.String("addr", was.advertise), slog.Any("err", err))
		return me
	}
	via := interfaceOf(machine{}, at)
	if at == was && (via == "" || via == me.Facts.Interface) {
		return me
	}
	next := *me
	next.Facts.Listen, next.Facts.Advertise, next.Facts.Interface = at.listen, at.advertise, via
	if err := n.keys.Save(&next); err != nil {
		n.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "this node's new address was not kept", slog.String("addr", at.advertise), slog.Any("err", err))
		return me
	}
	if at == was {
		return &next // on another interface than before, or on one at last
	}
	n.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "this node has another address", slog.String("addr", at.advertise), slog.String("was", was.advertise))
	return &next
}

// whereNow is where the operator says this node is, or where it finds itself.
func (n *Node) whereNow(was endpoint, via string) (endpoint, error) {
	if n.cfg.Advertise == "" {
		return moved(machine{}, was, via)
	}
	return chooseEndpoint(machine{}, was.listen, n.cfg.Advertise)
}

// readdress is Node's for a life that goes on.
func (l *life) readdress(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.me = l.node.readdress(ctx, l.me)
}

// watchAddress returns errMoved when this machine is reached elsewhere.
func (l *life) watchAddress(ctx context.Context) error {
	was := l.advertised()
	t := time.NewTicker(lookAround)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		if l.readdress(ctx); l.advertised() != was {
			return errMoved
		}
	}
}
