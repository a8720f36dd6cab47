// Command calm shows that a swarm stays calm: three managers on lab hosts, whose
// disk others keep busy with fsync, hold no election for as long as it runs.
//
// It is the proof that the election timeout asks for (0.6 s drawn to 1.2 s): a
// spurious election would move leadership for nothing. Each minute it prints
// what the disk did and which writes the swarm took; it ends with status 1 if
// a tenure began after the first, or a write was refused.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

func main() {
	lab.Init()
	ctl := flag.String("bin", "bin/ctl", "the ctl to watch; containerd and runc lie beside it")
	span := flag.Duration("for", time.Hour, "how long to watch")
	writers := flag.Int("writers", 4, "programs that write and fsync without a pause")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := watch(ctx, filepath.Dir(*ctl), *span, *writers)
	stop()
	if err != nil {
		fmt.Println("NOT CALM:", err)
		os.Exit(1)
	}
	fmt.Println("calm")
}

// watch raises the swarm, and the storm beside it, and watches for span.
func watch(ctx context.Context, bin string, span time.Duration, writers int) (err error) {
	l, err := lab.New(ctx, lab.Config{Bin: bin})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	s := &swarm{}
	if err := s.raise(ctx, l, "m1", "m2", "m3"); err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, span)
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	disk := &storm{dir: s.hosts[0].Dir()}
	for n := range writers {
		all.Go(func() { disk.blow(ctx, n) })
	}
	for n := range s.hosts {
		all.Go(func() { s.write(ctx, n) })
	}
	began := time.Now()
	for minute := time.NewTicker(time.Minute); ; {
		select {
		case <-ctx.Done():
			fmt.Printf("%5v  %s  %s\n", time.Since(began).Round(time.Second), disk.said(), s.said())
			stop()
			all.Wait()
			return cmp.Or(disk.failed(), s.verdict())
		case <-minute.C:
			fmt.Printf("%5v  %s  %s\n", time.Since(began).Round(time.Second), disk.said(), s.said())
		}
	}
}

// A swarm is three managers and the writes it takes meanwhile.
type swarm struct {
	hosts   []*lab.Host
	tenures int // those of raising it

	mu      sync.Mutex // guards what follows
	took    sample
	refused []string
}

// raise makes a swarm of managers, the first of which founds it.
func (s *swarm) raise(ctx context.Context, l *lab.Lab, names ...string) error {
	for _, name := range names {
		h, err := l.Host(name)
		if err == nil {
			err = h.Boot(ctx)
		}
		if err == nil {
			err = h.Daemon(ctx)
		}
		if err != nil {
			return err
		}
		s.hosts = append(s.hosts, h)
	}
	first := s.hosts[0]
	token, err := run(ctx, first, "until ctl info >/dev/null 2>&1; do sleep 0.1; done; ctl swarm init >/dev/null && ctl swarm join-token -q manager")
	for _, h := range s.hosts[1:] {
		if err == nil {
			_, err = run(ctx, h, "until ctl info >/dev/null 2>&1; do sleep 0.1; done; ctl swarm join --token "+strings.TrimSpace(token)+" "+first.Name()+":2377")
		}
	}
	if err == nil {
		_, err = run(ctx, first, `until [ "$(ctl node ls | grep -cE 'Leader|Reachable')" = 3 ]; do sleep 0.2; done`)
	}
	s.tenures = s.begun()
	return err
}

// run types a line that must succeed.
func run(ctx context.Context, h *lab.Host, line string) (string, error) {
	r, err := h.Shell(ctx, line)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s$ %s: exit code %d: %s", h.Name(), line, r.Code, r.Stderr)
	}
	return r.Stdout, err
}

// write has a manager take a write each second.
func (s *swarm) write(ctx context.Context, n int) {
	h := s.hosts[n]
	for i := 0; ctx.Err() == nil; i++ {
		began := time.Now()
		r, err := h.Shell(ctx, fmt.Sprintf("ctl node update --label-add calm=%d %s", i, h.Name()))
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		s.took.add(time.Since(began))
		if err != nil || r.Code != 0 {
			s.refused = append(s.refused, fmt.Sprintf("%v at %s: %v %s", time.Now().UTC().Format(time.TimeOnly), h.Name(), err, strings.TrimSpace(r.Stderr)))
		}
		s.mu.Unlock()
		pause(ctx, time.Second)
	}
}

// begun counts the tenures that the managers' logs tell of.
func (s *swarm) begun() (n int) {
	for _, h := range s.hosts {
		log, err := os.ReadFile(h.DaemonLog())
		if err == nil {
			n += strings.Count(string(log), "tenure begins")
		}
	}
	return n
}

func (s *swarm) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("writes %v, refused %d  elections %d  load %s", s.took.reset(), len(s.refused), s.begun()-s.tenures, load())
}

func (s *swarm) verdict() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.begun() - s.tenures; n > 0 || len(s.refused) > 0 {
		return fmt.Errorf("%d elections; %d writes refused: %s", n, len(s.refused), strings.Join(s.refused, "; "))
	}
	return nil
}

func load() string {
	text, _ := os.ReadFile("/proc/loadavg") // nothing is shown where there is none
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
