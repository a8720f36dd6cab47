package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	limit "golang.org/x/time/rate"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

const (
	// floodRate is how many bad joins a second are offered, each on a connection of
	// its own, from floodHosts addresses: ten times what managers look at.
	floodRate  = 1000
	floodHosts = 4096
	// flooders bounds how many are under way.
	flooders = 64
	// leastBeats is the shortest that beats are looked at: each agent beats.
	leastBeats = 3 * time.Second
)

// flood has machines ask to join by a token that is none, and measures what the
// agents' heartbeats feel of it: the time from a beat to the word that the leader
// has counted it, of the same agents a moment before and during the flood.
func flood(ctx context.Context, s *stage) error {
	wait(ctx, s.pace.settle)
	quiet, err := s.beats(ctx)
	if err != nil {
		return fmt.Errorf("before the flood: %w", err)
	}
	before, err := s.applied(ctx)
	if err != nil {
		return err
	}
	used, err := s.swarm.mark()
	if err != nil {
		return err
	}
	began := time.Now()
	stop, err := s.attack(ctx)
	if err != nil {
		return err
	}
	flooded, err := s.beats(ctx)
	asked, aerr := stop()
	if err := errors.Join(err, aerr); err != nil {
		return fmt.Errorf("in the flood: %w", err)
	}
	took := time.Since(began)
	u, err := s.swarm.since(used)
	if err != nil {
		return err
	}
	after, err := s.applied(ctx)
	if err != nil {
		return err
	}
	s.note("bad joins", "1/s", plain, float64(asked)/took.Seconds())
	s.note("managers' core", "%", cpu, 100*u.cpu.Seconds()/took.Seconds())
	s.note("log entries a 1000 bad joins", "", plain, 1000*float64(after-before)/float64(max(1, asked)))
	for _, p := range []int{50, 99} {
		q, f := percentile(quiet, p), percentile(flooded, p)
		s.note(fmt.Sprintf("beat p%d, quiet", p), "ms", plain, millis(q))
		s.note(fmt.Sprintf("beat p%d, flooded", p), "ms", plain, millis(f))
		s.note(fmt.Sprintf("beat p%d, flooded against quiet", p), "×", plain, float64(f)/float64(q))
	}
	return nil
}

// applied is the index of the first manager's last entry.
func (s *stage) applied(ctx context.Context) (uint64, error) {
	info, err := localv1.NewLocalClient(s.swarm.managers[0].conn).Info(ctx, &localv1.InfoRequest{})
	return info.GetApplied(), err
}

// attack floods the managers from a process of its own until the function it returns
// is called, which tells how many bad joins were answered.
func (s *stage) attack(ctx context.Context) (stop func() (uint64, error), err error) {
	good, err := s.swarm.joinToken(ctx)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	bad := ca.Token{Digest: good.Digest, Secret: ca.NewTokenSecret()}
	cmd := exec.CommandContext(ctx, self, append([]string{"flood", bad.Reveal()}, s.swarm.addresses()...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	var told strings.Builder
	cmd.Stdout = &told
	end, err := cmd.StdinPipe() // its end is the flood's
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() (asked uint64, err error) {
		if err := errors.Join(end.Close(), cmd.Wait()); err != nil {
			return 0, fmt.Errorf("the flood: %w", err)
		}
		_, err = fmt.Sscan(told.String(), &asked)
		return asked, err
	}, nil
}

// serveFlood asks managers to join by a bad token until standard input ends, and
// prints how often that was answered. In earnest it comes from other machines, so what
// it costs to ask is not to be taken from those who are asked: it gives way to them.
func serveFlood(token string, managers []string) error {
	bad, err := ca.ParseToken(token)
	if err != nil {
		return err
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, 19); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { // ends with the process
		_, _ = io.Copy(io.Discard, os.Stdin) // nothing comes but the end
		stop()
	}()
	asked, err := askInVain(ctx, bad, managers)
	if err == nil {
		_, err = fmt.Println(asked)
	}
	return err
}

// askInVain asks until ctx ends. One that is let in, and one that fails for another
// reason than that it is refused or turned away, is an error.
func askInVain(ctx context.Context, bad ca.Token, managers []string) (uint64, error) {
	key, err := ca.NewKey()
	if err != nil {
		return 0, err
	}
	g, ctx := errgroup.WithContext(ctx)
	offer := limit.NewLimiter(floodRate, 1)
	var asked, turn atomic.Uint64
	for range flooders {
		g.Go(func() error {
			for offer.Wait(ctx) == nil {
				n := turn.Add(1)
				_, err := client.Enroll(ctx, client.Join{
					Token: bad, Key: key, Hostname: "flood", Dial: floodFrom(n % floodHosts),
					Remotes: []string{managers[n%uint64(len(managers))]},
				})
				switch {
				case ctx.Err() != nil:
					return nil
				case err == nil:
					return errors.New("a bad join was let in")
				case !turnedAway(err):
					return fmt.Errorf("a bad join ended otherwise: %w", err)
				}
				asked.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return asked.Load(), err
}

func turnedAway(err error) bool {
	return errdefs.IsPermissionDenied(err) || errdefs.IsResourceExhausted(err) || errdefs.IsUnavailable(err) || errors.Is(err, client.ErrUnreachable)
}

// floodFrom connects from an address of the loopback that no agent has.
func floodFrom(host uint64) func(context.Context, string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 200, byte(host>>8), byte(host))}}
	return func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
}

// beats returns how long each beat of the agents was on its way, of those that were
// sent within the scenario's time.
func (s *stage) beats(ctx context.Context) ([]time.Duration, error) {
	for _, m := range s.fleet.members {
		m.beats.turn(true)
	}
	wait(ctx, max(s.pace.idle, leastBeats))
	var all []time.Duration
	for _, m := range s.fleet.members {
		all = append(all, m.beats.turn(false)...)
	}
	if len(all) < len(s.fleet.members) {
		return nil, errors.Join(fmt.Errorf("%d agents had %d beats counted", len(s.fleet.members), len(all)), ctx.Err())
	}
	slices.Sort(all)
	return all, ctx.Err()
}

// percentile is that of sorted times.
func percentile(sorted []time.Duration, p int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// beats times the beats of one agent while it is on.
type beats struct {
	on atomic.Bool

	mu    sync.Mutex // guards the fields below
	last  uint64     // the beat that is on its way; 0: none is
	since time.Time
	took  []time.Duration
}

// turn begins to time beats, or ends it and returns what they took.
func (b *beats) turn(on bool) []time.Duration {
	b.on.Store(on)
	b.mu.Lock()
	defer b.mu.Unlock()
	took := b.took
	b.took, b.last = nil, 0
	return took
}

// sent notes a beat that is sent, unless the one before it is still on its way: one
// that is late is timed to its end.
func (b *beats) sent(req *dispatchv1.SessionRequest) {
	if req.GetBeat() == 0 || !b.on.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == 0 || req.GetOpen() != nil { // another session counts anew
		b.last, b.since = req.GetBeat(), time.Now()
	}
}

// counted notes that beats up to a number were counted.
func (b *beats) counted(beat uint64) {
	if !b.on.Load() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last != 0 && beat >= b.last {
		b.took, b.last = append(b.took, time.Since(b.since)), 0
	}
}
