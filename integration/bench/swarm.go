package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// patience bounds every wait for a manager.
const patience = 30 * time.Second

// A process is one manager.
type process struct {
	dir     string
	profile string // file for its CPU profile, or ""
	address string // of the manager, on the loopback
	cmd     *exec.Cmd
	conn    *grpc.ClientConn
}

// A swarm is managers that are processes of their own. None of them runs tasks.
type swarm struct {
	dir      string
	managers []*process
	profile  func(manager int) string // file for its CPU profile, or ""
}

// raise starts the scenario's managers on the disk to measure, and makes them a
// swarm.
func raise(ctx context.Context, o options, of scenario) (s *swarm, err error) {
	dir, err := os.MkdirTemp(o.dir, "bench")
	if err != nil {
		return nil, err
	}
	s = &swarm{dir: dir, profile: func(i int) string { return o.profileOf(of, i) }}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.words(), s.close())
		}
	}()
	for i := range of.managers {
		p, err := s.start(ctx, i)
		if err != nil {
			return s, err
		}
		s.managers = append(s.managers, p)
	}
	if err := s.found(ctx); err != nil {
		return s, err
	}
	return s, s.settled(ctx)
}

// start starts the daemon of one manager.
func (s *swarm) start(ctx context.Context, i int) (*process, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &process{profile: s.profile(i), dir: filepath.Join(s.dir, fmt.Sprintf("m%d", i+1)), address: lis.Addr().String()}
	if err := errors.Join(lis.Close(), os.Mkdir(p.dir, 0o700)); err != nil {
		return nil, err
	}
	return p, s.run(ctx, p)
}

// run starts the process, for the first time or again.
func (s *swarm) run(ctx context.Context, p *process) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(self, "daemon", "--state-dir", filepath.Join(p.dir, "state"), "--run-dir", filepath.Join(p.dir, "run"),
		"--hostname", filepath.Base(p.dir), "--containerd", filepath.Join(p.dir, "none.sock"))
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(os.Environ(), envHeap+"="+filepath.Join(p.dir, "heap"))
	p.cmd.Env = append(p.cmd.Env, envProfile+"="+p.profile)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return err
	}
	if p.conn == nil {
		if p.conn, err = rpc.DialUnix(filepath.Join(p.dir, "run", "ctl.sock")); err != nil {
			return err
		}
	}
	return eventually(ctx, "the daemon to answer", func(ctx context.Context) (bool, error) {
		_, err := localv1.NewLocalClient(p.conn).Info(ctx, &localv1.InfoRequest{})
		return err == nil, nil
	})
}

// found makes the first manager a swarm and has the others join it.
func (s *swarm) found(ctx context.Context) error {
	first := s.managers[0]
	_, err := localv1.NewLocalClient(first.conn).Init(ctx, &localv1.InitRequest{
		AdvertiseAddr: first.address, ListenAddr: first.address, Availability: modelv1.Availability_AVAILABILITY_DRAIN,
	})
	if err != nil {
		return err
	}
	token, err := s.token(ctx, modelv1.Role_ROLE_MANAGER)
	if err != nil {
		return err
	}
	for _, p := range s.managers[1:] {
		if err := s.enter(ctx, p, token); err != nil {
			return err
		}
	}
	return nil
}

// enter has a daemon join as a manager.
func (s *swarm) enter(ctx context.Context, p *process, token string) error {
	_, err := localv1.NewLocalClient(p.conn).Join(ctx, &localv1.JoinRequest{
		Token: token, Remotes: []string{s.managers[0].address}, AdvertiseAddr: p.address, ListenAddr: p.address,
		Availability: modelv1.Availability_AVAILABILITY_DRAIN,
	})
	return err
}

// add starts one manager more and returns when it votes.
func (s *swarm) add(ctx context.Context) (*process, error) {
	p, err := s.start(ctx, len(s.managers))
	if err != nil {
		return nil, err
	}
	s.managers = append(s.managers, p)
	token, err := s.token(ctx, modelv1.Role_ROLE_MANAGER)
	if err != nil {
		return nil, err
	}
	if err := s.enter(ctx, p, token); err != nil {
		return nil, err
	}
	return p, s.settled(ctx)
}

// settled waits until every manager votes and is heard.
func (s *swarm) settled(ctx context.Context) error {
	return eventually(ctx, "the managers to settle", func(ctx context.Context) (bool, error) {
		resp, err := s.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
		if err != nil {
			return false, nil
		}
		voters := 0
		for _, n := range resp.GetNodes() {
			m := n.GetManager()
			if m.GetVoter() && m.GetReachability() == controlv1.ManagerStatus_REACHABILITY_REACHABLE &&
				n.GetNode().GetStatus().GetState() == modelv1.NodeState_NODE_STATE_READY {
				voters++
			}
		}
		return voters == len(s.managers), nil
	})
}

// control is the public API, at the first manager.
func (s *swarm) control() controlv1.ControlClient {
	return controlv1.NewControlClient(s.managers[0].conn)
}

func (s *swarm) token(ctx context.Context, role modelv1.Role) (string, error) {
	var token string
	err := eventually(ctx, "a join token", func(ctx context.Context) (bool, error) {
		resp, err := s.control().GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: role})
		token = resp.GetToken()
		return err == nil, nil
	})
	return token, err
}

// joinToken is what agents join with.
func (s *swarm) joinToken(ctx context.Context) (ca.Token, error) {
	text, err := s.token(ctx, modelv1.Role_ROLE_WORKER)
	if err != nil {
		return ca.Token{}, err
	}
	return ca.ParseToken(text)
}

// addresses are those of all managers.
func (s *swarm) addresses() (all []string) {
	for _, p := range s.managers {
		all = append(all, p.address)
	}
	return all
}

// mark begins a timed part: the managers' peaks and profiles begin anew. It
// returns what they have used.
func (s *swarm) mark() ([]usage, error) {
	for _, p := range s.managers {
		if err := errors.Join(markPeak(p.cmd.Process.Pid), p.turnProfile()); err != nil {
			return nil, err
		}
	}
	return s.usages()
}

// turnProfile begins a manager's profile, or ends it.
func (p *process) turnProfile() error {
	if p.profile == "" {
		return nil
	}
	return p.cmd.Process.Signal(syscall.SIGUSR2)
}

// usages is what each manager has used so far.
func (s *swarm) usages() (all []usage, err error) {
	for _, p := range s.managers {
		u, err := usageOf(p.cmd.Process.Pid)
		if err != nil {
			return nil, err
		}
		all = append(all, u)
	}
	return all, nil
}

// since ends a timed part, and is what all managers have used in it, and the
// greatest peak.
func (s *swarm) since(before []usage) (sum usage, err error) {
	now, err := s.usages()
	for _, p := range s.managers {
		err = errors.Join(err, p.turnProfile())
	}
	for i, u := range now {
		sum.cpu += u.cpu - before[i].cpu
		sum.written += u.written - before[i].written
		sum.peak = max(sum.peak, u.peak)
		sum.rss = max(sum.rss, u.rss)
	}
	return sum, err
}

// heap asks a manager what it holds in memory after a collection.
func (p *process) heap(ctx context.Context) (h heap, err error) {
	file := filepath.Join(p.dir, "heap")
	_ = os.Remove(file) // there is none the first time
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return h, err
	}
	err = eventually(ctx, "a manager's word on its heap", func(context.Context) (bool, error) {
		data, err := os.ReadFile(file)
		if err != nil {
			return false, nil
		}
		return true, json.Unmarshal(data, &h)
	})
	return h, err
}

// close ends the managers and removes all they wrote.
func (s *swarm) close() error {
	var errs []error
	for _, p := range s.managers {
		if p.conn != nil {
			errs = append(errs, p.conn.Close())
		}
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	for _, p := range s.managers {
		kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
		_ = p.cmd.Wait() // how it ended is not what is measured
		kill.Stop()
	}
	return errors.Join(append(errs, os.RemoveAll(s.dir))...)
}

// words is the end of each manager's log, as an error.
func (s *swarm) words() error {
	var errs []error
	for _, p := range s.managers {
		text, _ := os.ReadFile(filepath.Join(p.dir, "log")) // nothing is shown where there is none
		errs = append(errs, fmt.Errorf("%s said: %s", filepath.Base(p.dir), strings.TrimSpace(string(text[max(0, len(text)-2000):]))))
	}
	return errors.Join(errs...)
}

// eventually asks again and again until the answer is yes.
func eventually(ctx context.Context, what string, ask func(context.Context) (bool, error)) error {
	ctx, stop := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %v for %s", patience, what))
	defer stop()
	for {
		yes, err := ask(ctx)
		if yes || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
