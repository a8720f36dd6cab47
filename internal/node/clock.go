package node

import (
	"context"
	"log/slog"
	"time"

	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// clockPause is the least time between two questions for a manager's clock.
const clockPause = 30 * time.Second

// A skew is how far this host's clock is ahead of the swarm's, by what a manager
// says; the zero skew is not far, or not known.
type skew struct {
	ahead time.Duration
	by    id.ID
}

// doubtClock notes that m's certificate has ended by the clock here. It never blocks.
func (l *life) doubtClock(m *cav1.Manager) {
	select {
	case l.untimely <- m:
	default:
	}
}

// keepClock asks managers for their clock whose certificates are refused for the
// time, until ctx ends: without a session nobody else tells this node that the
// fault is its own.
func (l *life) keepClock(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-l.untimely:
			l.askClock(ctx, m)
		}
		l.pause(ctx, clockPause, nil)
	}
}

func (l *life) askClock(ctx context.Context, m *cav1.Manager) {
	address, peer, err := l.peer(m)
	if err != nil {
		return
	}
	conn, err := rpc.Dial(address, rpc.ClientTLS(l.node.holder, peer.AskClock()), rpc.Through(l.node.cfg.Outside.dial())...)
	if err != nil {
		return
	}
	defer conn.Close()
	ahead, err := client.AskClock(ctx, conn)
	if err != nil {
		l.node.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "a manager's certificate has ended by the clock here, and it does not tell its own",
			slog.String("manager", peer.Node.Short()), slog.Any("err", err))
		return
	}
	l.setClock(skew{ahead: ahead, by: peer.Node})
}

// tellClock takes in what the node's record says of its clock.
func (l *life) tellClock(w *dispatchv1.Wish) {
	by, err := id.FromBytes(w.GetClockBy())
	if err != nil {
		by = id.ID{}
	}
	l.setClock(skew{ahead: time.Duration(w.GetClockAhead()), by: by})
}

// setClock keeps what was told of the clock here, and says so when it is news.
func (l *life) setClock(now skew) {
	if now.ahead.Abs() <= rpc.ClockTolerance {
		now = skew{}
	}
	l.mu.Lock()
	was := l.clock
	l.clock = now
	l.mu.Unlock()
	switch {
	case now.ahead != 0 && (was.ahead-now.ahead).Abs() > rpc.ClockTolerance:
		l.node.cfg.Log.Warn("this host's clock is not that of the swarm",
			"off", rpc.ClockWords(now.ahead, now.by), "hint", rpc.ClockHint)
	case now.ahead == 0 && was.ahead != 0:
		l.node.cfg.Log.Info("this host's clock is that of the swarm again")
	}
}
