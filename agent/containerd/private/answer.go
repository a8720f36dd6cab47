package private

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/client"
)

// patience is how long a containerd gets to answer after its start: it loads
// the shims of running containers first, each in up to 5 s.
const patience = 60 * time.Second

// answers returns nil when containerd answers at its socket, and an error if
// its process ends first or it does not answer in time.
func (s *Supervisor) answers(ctx context.Context, p *process) error {
	for deadline := time.Now().Add(patience); ; {
		err := s.ask(ctx, time.Second)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if done, perr := p.ended(20 * time.Millisecond); done || perr != nil {
			return errors.Join(errEnded, perr)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("containerd (process %d) does not answer at %s for %v: %w", p.pid, s.Address(), patience, err)
		}
	}
}

// mind returns when containerd's process has ended or ctx has. A containerd that
// has not answered for as long as patience is killed: its containers do not mind.
func (s *Supervisor) mind(ctx context.Context, p *process) error {
	for answered := time.Now(); ; {
		period, stop := context.WithTimeout(ctx, 10*time.Second)
		err := p.wait(period)
		stop()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		err = s.ask(ctx, 10*time.Second)
		switch {
		case err == nil:
			answered = time.Now()
		case time.Since(answered) > patience && ctx.Err() == nil:
			return errors.Join(fmt.Errorf("containerd (process %d) has not answered for %v: %w", p.pid, patience, err),
				p.signal(syscall.SIGKILL), p.wait(ctx))
		}
	}
}

// ask asks containerd for its version.
func (s *Supervisor) ask(ctx context.Context, patience time.Duration) error {
	if _, err := os.Stat(s.Address()); err != nil {
		return err
	}
	c, err := client.New(s.Address(), client.WithTimeout(time.Second))
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // only asked
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	_, err = c.Version(ctx)
	return err
}

// Stop ends the containerd of this configuration, if there is one, and returns
// when its process is gone. It is for a node that leaves, when Run has returned
// and no containers are left: containers that still run are not stopped by it.
func (s *Supervisor) Stop(ctx context.Context) error {
	pid := s.listener()
	if pid == 0 {
		pid = s.noted()
	}
	if pid == 0 {
		return nil
	}
	p, err := open(pid, nil)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop private containerd: %w", err)
	}
	defer p.release()
	if err := s.end(ctx, p); err != nil {
		return fmt.Errorf("stop private containerd (process %d): %w", pid, err)
	}
	if err := os.Remove(s.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop private containerd: %w", err)
	}
	return nil
}

// end terminates a process, and kills it if that takes more than 10 s.
func (s *Supervisor) end(ctx context.Context, p *process) error {
	for _, step := range []struct {
		signal syscall.Signal
		wait   time.Duration
	}{{syscall.SIGTERM, 10 * time.Second}, {syscall.SIGKILL, 10 * time.Second}} {
		if err := p.signal(step.signal); err != nil {
			return err
		}
		waiting, stop := context.WithTimeout(ctx, step.wait)
		err := p.wait(waiting)
		stop()
		if errors.Is(err, errEnded) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("it does not end")
}
