package witness

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

const (
	// beat is how often it is looked whether something is due, and so for how long
	// what is alike is gathered before it is told for the first time.
	beat = time.Second
	// What goes on being refused is told more and more seldom: the first rest
	// after it was told, by how much each is longer, and the longest.
	firstRest  = 4 * time.Second
	restGrowth = 4
	maxRest    = 10 * time.Minute
	// maxKinds bounds what is told apart, of strangers and of all others; the rest is
	// counted together.
	maxKinds = 1024
	// forgetEvery is how often it is looked whether something is to be forgotten,
	// while there is nothing to tell.
	forgetEvery = 5 * time.Minute
	// tellTime bounds one try to tell.
	tellTime = 5 * time.Second
)

// MaxTold is how many sights are told at once at most.
const MaxTold = 256

// What is told in the long run, in records a second, and at once: of those who
// showed no certificate, and of all others. A flood of strangers fills a tenth of a
// trail of 50,000 records in 14 hours, and needs six days for all of it.
const (
	strangersRate, strangersBurst = rate.Limit(0.1), 64
	knownRate, knownBurst         = rate.Limit(1), 256
)

// Config configures a Gatherer. Every field is required.
type Config struct {
	// Self is the node this is on.
	Self id.ID
	// Tell has sights written down, by the leader. If it fails they are told again.
	Tell func(ctx context.Context, sights []*logv1.Sight) error
	Log  *slog.Logger
}

// A Gatherer is the rpc.Witness of a manager.
type Gatherer struct {
	cfg    Config
	meters meters

	wake chan struct{} // capacity 1
	mu   sync.Mutex    // guards what is below and in the books; held for memory only
	// asleep says that Run looks at nothing before it is woken.
	asleep bool
	// strangers cannot use up the room of those who showed who they are.
	strangers, known book
}

// A book is what was seen of some callers, and how much of it is told.
type book struct {
	kinds map[kind]*gathered
	limit *rate.Limiter
}

type meters struct{ seen, told, lumped meter.Counter }

// Meters is what a Gatherer counted.
type Meters struct {
	// Seen is what there was; Told how many sights were written down, each for one
	// or more of them; Lumped how many were too many kinds to be told apart.
	Seen, Told, Lumped uint64
}

// A kind is what is told as one.
type kind struct{ who, net, on, via, did, code string }

// gathered is what was seen of a kind and not told yet, and when it may be.
type gathered struct {
	sight *logv1.Sight // nil: nothing since it was told
	due   time.Time
	rest  time.Duration
}

// New returns a Gatherer. Run tells what it gathers.
func New(cfg Config) *Gatherer {
	return &Gatherer{
		cfg: cfg, wake: make(chan struct{}, 1),
		strangers: book{make(map[kind]*gathered), rate.NewLimiter(strangersRate, strangersBurst)},
		known:     book{make(map[kind]*gathered), rate.NewLimiter(knownRate, knownBurst)},
	}
}

// Saw implements rpc.Witness.
func (g *Gatherer) Saw(c rpc.Caller, code, reason string) {
	d, now := deedOf(c), time.Now()
	k := kind{d.GetWho(), network(d.GetFrom()), string(d.GetOn()), string(d.GetVia()), d.GetDid(), code}
	g.meters.seen.Inc()
	b := &g.known
	if c.Kind == rpc.Anyone {
		b = &g.strangers
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	v := b.kinds[k]
	if v == nil && len(b.kinds) >= maxKinds {
		g.meters.lumped.Inc()
		d, reason = &logv1.Deed{Who: "many", Did: audit.Overflow}, ""
		k = kind{who: d.GetWho(), code: code}
		v = b.kinds[k]
	}
	if v == nil {
		v = &gathered{due: now.Add(beat), rest: firstRest}
		b.kinds[k] = v
	}
	if v.sight == nil {
		v.sight = &logv1.Sight{Deed: d, By: g.cfg.Self.Bytes(), Code: code, Reason: audit.Cut(oneLine(reason)), First: now.UnixNano()}
	}
	v.sight.Count++
	if g.asleep {
		g.asleep = false
		g.wake <- struct{}{} // there is room: it was taken before Run slept
	}
}

// network is what of an address tells callers apart: the whole of IPv4, the /64 of
// IPv6, as one host has all of that.
func network(host string) string {
	a, err := netip.ParseAddr(host)
	if err != nil || a.Unmap().Is4() {
		return host
	}
	p, err := a.WithZone("").Prefix(64)
	if err != nil {
		return host
	}
	return p.String()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// take takes what is due, at most max, and forgets what has been quiet.
func (g *Gatherer) take(now time.Time, most int) (out []*logv1.Sight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, b := range []*book{&g.known, &g.strangers} {
		out = b.take(now, most, out)
	}
	slices.SortFunc(out, func(a, b *logv1.Sight) int {
		return cmp.Or(cmp.Compare(a.GetFirst(), b.GetFirst()), cmp.Compare(a.GetDeed().GetWho(), b.GetDeed().GetWho()))
	})
	return out
}

func (b *book) take(now time.Time, most int, out []*logv1.Sight) []*logv1.Sight {
	for k, v := range b.kinds {
		switch {
		case v.due.After(now):
		case v.sight == nil:
			if v.due.Add(v.rest).Before(now) {
				delete(b.kinds, k)
			}
		case len(out) < most && b.limit.AllowN(now, 1):
			out = append(out, v.sight)
			v.sight, v.due = nil, now.Add(v.rest)
			v.rest = min(restGrowth*v.rest, maxRest)
		}
	}
	return out
}

// rest waits until there may be something to tell: a beat while something waits,
// and else until something is seen.
func (g *Gatherer) rest(ctx context.Context, ready bool) error {
	pause := beat
	if g.mu.Lock(); !ready && !g.known.waits() && !g.strangers.waits() {
		g.asleep, pause = true, forgetEvery
	}
	g.mu.Unlock()
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-g.wake:
		return g.rest(ctx, true) // for a beat, so that what is alike comes together
	case <-t.C:
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asleep = false
	select {
	case <-g.wake: // it came with the end of the pause
	default:
	}
	return nil
}

// waits reports whether something was not told yet.
func (b *book) waits() bool {
	for _, v := range b.kinds {
		if v.sight != nil {
			return true
		}
	}
	return false
}

// Run tells what is gathered until ctx ends.
func (g *Gatherer) Run(ctx context.Context) error {
	var ready []*logv1.Sight
	for tries := 0; ; {
		if err := g.rest(ctx, len(ready) > 0); err != nil {
			return err
		}
		if ready = append(ready, g.take(time.Now(), MaxTold-len(ready))...); len(ready) == 0 {
			continue
		}
		err := g.tell(ctx, ready)
		switch {
		case err == nil:
			g.meters.told.Add(len(ready))
			ready, tries = nil, 0
		case ctx.Err() == nil:
			if tries++; tries == 10 {
				g.cfg.Log.LogAttrs(ctx, slog.LevelWarn, "what was refused cannot be written into the audit trail; trying on",
					slog.Int("kinds", len(ready)), slog.Any("err", err))
			}
		}
	}
}

func (g *Gatherer) tell(ctx context.Context, sights []*logv1.Sight) error {
	ctx, stop := context.WithTimeout(ctx, tellTime)
	defer stop()
	return g.cfg.Tell(ctx, sights)
}

// Meters returns what was counted.
func (g *Gatherer) Meters() Meters {
	return Meters{Seen: g.meters.seen.Value(), Told: g.meters.told.Value(), Lumped: g.meters.lumped.Value()}
}

var errTooMany = errors.New("too many sights at once")

// Check makes what another manager told fit to be written down: it was seen by
// that one, whatever it says, and is no longer than what this version tells.
func Check(by id.ID, sights []*logv1.Sight) error {
	if len(sights) > MaxTold {
		return errTooMany
	}
	for _, v := range sights {
		v.By = by.Bytes()
		v.Reason, v.Code = audit.Cut(v.GetReason()), audit.Cut(v.GetCode())
		if d := v.GetDeed(); d != nil {
			d.Who, d.From, d.Did = audit.Cut(d.GetWho()), audit.Cut(d.GetFrom()), audit.Cut(d.GetDid())
		}
		v.ProtoReflect().SetUnknown(nil)
		if d := v.GetDeed(); d != nil {
			d.ProtoReflect().SetUnknown(nil)
		}
	}
	return nil
}

var _ rpc.Witness = (*Gatherer)(nil)
