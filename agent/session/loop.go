package session

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
)

// How a client tries: every manager once without waiting, then again after a
// pause that grows.
const (
	firstPause   = 50 * time.Millisecond
	longestPause = 2 * time.Second
	// A manager has this long to say its hello; longer in later rounds, for one
	// that first has to catch up, or that is asked by ten thousand agents at
	// once: if all of them give up before it has come to them, it works for
	// nobody.
	firstPatience   = 1500 * time.Millisecond
	longestPatience = 30 * time.Second
	// quietRounds before the first session are no news: a manager that starts with
	// its node is not elected yet.
	quietRounds = 3
	// lonelyRounds without success are worth a warning.
	lonelyRounds = 5
)

// loop is the state of Run; its goroutine alone touches it.
type loop struct {
	*Client
	links *sync.WaitGroup

	main *link // the stream that counts
	next *link // the one that is tried beside it or in its stead

	opened  bool            // a session has counted since the start
	doubted bool            // main's beats are unconfirmed
	round   []*cav1.Manager // to be tried before the next pause
	rounds  int             // without success
	retry   *time.Timer
	due     bool // retry is armed
}

// Run keeps a session until ctx ends. When it returns, nothing of it is left
// running.
func (c *Client) Run(ctx context.Context) error {
	var links sync.WaitGroup
	defer links.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l := &loop{Client: c, links: &links, retry: time.NewTimer(0)}
	defer l.retry.Stop()
	c.setMain(nil)
	defer c.setMain(nil)
	l.due = true
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.retry.C:
			l.due = false
			l.try(ctx)
		case <-c.renewed:
			l.rounds = 0
			if l.outdated() {
				l.schedule(ctx)
			}
		case e := <-c.events:
			l.hear(ctx, e)
		}
	}
}

// hear acts on the news of a link; those of one that was given up are no news.
func (l *loop) hear(ctx context.Context, e event) {
	if e.link != l.main && e.link != l.next {
		return
	}
	switch e.news {
	case welcomed:
		l.cfg.Log.LogAttrs(ctx, slog.LevelDebug, "a manager answered", slog.String("manager", nodeOf(e.link.manager)))
		if l.main == nil {
			l.promote(ctx)
		}
	case confirmed:
		l.confirmed(ctx, e.link)
	case doubted:
		l.doubt(ctx, e.link)
	case ended:
		l.ended(ctx, e.link, e.err)
	}
}

// promote makes the link that is tried the one that counts.
func (l *loop) promote(ctx context.Context) {
	if l.main != nil {
		l.main.stop()
	}
	l.main, l.next, l.doubted, l.opened = l.next, nil, false, true
	l.setMain(l.main)
	l.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "session opened", slog.String("manager", nodeOf(l.main.manager)),
		slog.String("address", l.main.manager.GetAddress()))
}

// confirmed: the first of two streams that the leader accounts for is kept.
func (l *loop) confirmed(ctx context.Context, k *link) {
	if k == l.next {
		l.promote(ctx)
	}
	l.doubted, l.round = false, nil
	if l.outdated() { // it goes on until its successor counts, which is what next is
		l.schedule(ctx)
		return
	}
	if l.next != nil {
		l.next.stop()
		l.next = nil
	}
	l.rounds = 0
	l.disarm()
}

// outdated reports whether the stream that counts shows a certificate that
// another has followed, so that it will not be let live for long.
func (l *loop) outdated() bool { return l.main != nil && l.main.certificate != l.certificate() }

// doubt: what the leader does not account for is not enough.
func (l *loop) doubt(ctx context.Context, k *link) {
	if k == l.next {
		k.stop()
		l.next = nil
		l.schedule(ctx)
		return
	}
	if !l.doubted {
		l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "the leader does not confirm this node's beats; another manager is tried",
			slog.String("manager", nodeOf(k.manager)))
	}
	l.doubted = true
	if l.next == nil {
		l.schedule(ctx)
	}
}

// lost records why a link ended.
func (l *loop) lost(ctx context.Context, k *link, err error) {
	level := slog.LevelDebug
	if l.isNews(k) {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{slog.String("manager", nodeOf(k.manager)), slog.String("address", k.manager.GetAddress()), slog.Any("err", err)}
	if k == l.next && l.main != nil {
		l.cfg.Log.LogAttrs(ctx, level, "no other session with a manager; the one there is goes on", attrs...)
		return
	}
	l.cfg.Log.LogAttrs(ctx, level, "no session with a manager", attrs...)
	if l.main == nil && l.rounds >= quietRounds {
		l.setAlone(fmt.Errorf("%s: %w", k.manager.GetAddress(), err))
	}
}

// isNews reports whether the end of a link is to be said: once per manager and
// loss.
func (l *loop) isNews(k *link) bool {
	switch {
	case k != l.next:
		return true
	case l.main != nil:
		return l.rounds <= 1
	case !l.opened:
		return l.rounds == quietRounds
	}
	return l.rounds == 0
}

func (l *loop) ended(ctx context.Context, k *link, err error) {
	if k == l.main && l.next.welcomed() { // as it should be, or nothing lost at least
		l.promote(ctx)
		return
	}
	l.lost(ctx, k, err)
	if k == l.next {
		l.next = nil
		l.schedule(ctx)
		return
	}
	l.main = nil
	l.setMain(nil)
	if l.next != nil {
		return // its welcome promotes it
	}
	l.disarm()
	if l.round == nil { // this session was confirmed: it broke, it was not refused
		l.round = l.shuffled(k.manager)
	}
	l.schedule(ctx)
}

// schedule arms the next try, if one is needed: at once while the round has
// managers left, else after a pause.
func (l *loop) schedule(ctx context.Context) {
	if l.due || l.next != nil || l.isParting() {
		return
	}
	l.due = true
	if len(l.round) > 0 {
		l.retry.Reset(0)
		return
	}
	pause := min(firstPause<<min(l.rounds, 8), longestPause)
	l.retry.Reset(pause/2 + rand.N(pause/2+1))
	l.rounds++
	if l.rounds == lonelyRounds && l.main == nil {
		l.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "no manager answers; containers are left as they are and every manager is tried on",
			slog.Int("managers", len(l.candidates())))
	}
}

func (l *loop) disarm() {
	l.retry.Stop()
	l.due = false
}

// try opens a link to the next manager of the round.
func (l *loop) try(ctx context.Context) {
	if l.isParting() || l.next != nil || (l.main != nil && !l.doubted && !l.outdated()) {
		return
	}
	m := l.pick()
	if m == nil { // nobody to ask, or nobody else
		l.schedule(ctx)
		return
	}
	of, stop := context.WithCancel(ctx)
	k := l.newLink(m, stop)
	l.next = k
	patience := min(firstPatience<<min(l.rounds, 8), longestPatience)
	l.links.Go(func() {
		err := k.run(of, patience)
		stop()
		l.tell(ctx, event{link: k, news: ended, err: err})
	})
}

// pick returns the manager to try: the one that serves already if only the
// certificate is outdated, because it knows what this node has obeyed; else the
// next of the round, nil if there is none.
func (l *loop) pick() *cav1.Manager {
	if l.main != nil && !l.doubted {
		for _, m := range l.cfg.Worker.Managers().GetManagers() {
			if bytes.Equal(m.GetNode(), l.main.manager.GetNode()) {
				return m
			}
		}
		return l.main.manager
	}
	if len(l.round) == 0 {
		l.round = l.shuffled(nil)
	}
	if len(l.round) == 0 {
		return nil
	}
	m := l.round[0]
	l.round = l.round[1:]
	return m
}

// shuffled returns the managers in random order, so that agents spread over
// them: without the one main is connected to, unless it has been silent for a
// whole lease and there is no other; last, if it is there, the one just lost.
func (l *loop) shuffled(lost *cav1.Manager) []*cav1.Manager {
	all := l.candidates()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	if lost != nil {
		slices.SortStableFunc(all, func(a, b *cav1.Manager) int { return rank(a, lost) - rank(b, lost) })
	}
	if l.main == nil {
		return all
	}
	others := slices.DeleteFunc(slices.Clone(all), func(m *cav1.Manager) bool { return same(m, l.main.manager) })
	if len(others) == 0 && l.main.pulse.overdue(time.Now()) {
		return all
	}
	return others
}

func rank(m, last *cav1.Manager) int {
	if same(m, last) {
		return 1
	}
	return 0
}

func same(a, b *cav1.Manager) bool {
	return bytes.Equal(a.GetNode(), b.GetNode()) && a.GetAddress() == b.GetAddress()
}
