package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"

	"github.com/skep-project/skep/cli/conn"
)

// A scenario is something that is measured on a swarm of its own.
type scenario struct {
	name     string
	managers int
	agents   int
	replicas int
	kind     string // of the agents: light or real
	targets  map[string]target
	play     func(context.Context, *stage) error
}

func (s scenario) String() string {
	text := fmt.Sprintf("%s %dm", s.name, s.managers)
	if s.agents > 0 {
		text += fmt.Sprintf(" %d %s", s.agents, s.kind)
	}
	if s.replicas > 0 {
		text += fmt.Sprintf(" ×%d", s.replicas)
	}
	return text
}

// A stage is the swarm of one run.
type stage struct {
	scenario
	swarm *swarm
	fleet *fleet
	book  *book
	dir   string
}

// once plays the scenario on a swarm made for it, whose agents are ready.
func (s scenario) once(ctx context.Context, o options, b *book) (err error) {
	sw, err := raise(ctx, o, filepath.Base(s.name), s.managers)
	if err != nil {
		return err
	}
	st := &stage{scenario: s, swarm: sw, fleet: &fleet{}, book: b, dir: sw.dir}
	defer func() {
		st.fleet.end()
		if err != nil {
			err = errors.Join(err, sw.words())
		}
		err = errors.Join(err, sw.close())
	}()
	if s.agents > 0 && s.name != "join" {
		if err := st.man(ctx); err != nil {
			return err
		}
	}
	return s.play(ctx, st)
}

// man has the scenario's agents join, and waits until they are ready.
func (s *stage) man(ctx context.Context) (err error) {
	if s.fleet, err = enlist(ctx, s.swarm, s.agents); err != nil {
		return err
	}
	if err := s.fleet.begin(ctx, s.kind, s.dir); err != nil {
		return err
	}
	return ready(ctx, s.swarm, s.agents)
}

// note puts the figure of this run into the book.
func (s *stage) note(metric, unit string, how bound, v float64) {
	s.book.note(s.scenario, metric, unit, how, v)
}

// create makes a service of n replicas.
func (s *stage) create(ctx context.Context, name string, n int) ([]byte, error) {
	resp, err := s.swarm.control().CreateService(ctx, &controlv1.CreateServiceRequest{
		RequestId: conn.RequestID(), Spec: spec(name, n), Template: template(""),
	})
	return resp.GetId(), err
}

// spec is a service of n replicas that is updated a hundred at a time.
func spec(name string, n int) *modelv1.ServiceSpec {
	return &modelv1.ServiceSpec{
		Name: name, Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: uint64(n)}}, //nolint:gosec // not negative
		Update: &modelv1.UpdateConfig{Parallelism: 100, Monitor: 1, FailureAction: modelv1.FailureAction_FAILURE_ACTION_PAUSE},
	}
}

// template is what tasks are: no more than a name of an image and one variable.
func template(value string) *modelv1.TaskTemplate {
	c := &modelv1.ContainerSpec{Image: "docker.io/library/alpine:latest", StopGracePeriod: int64(10 * time.Second)}
	if value != "" {
		c.Env = []string{"BENCH=" + value}
	}
	return &modelv1.TaskTemplate{Container: c}
}

// pollEvery is how often the API is asked how far things are.
const pollEvery = 10 * time.Millisecond

// until asks the API for a service until it is as it should be, and says how
// long that took since began.
func (s *stage) until(ctx context.Context, ref string, began time.Time, is func(*controlv1.ServiceView) bool) (time.Duration, error) {
	told := began
	for {
		asked := time.Now()
		resp, err := s.swarm.control().GetService(ctx, &controlv1.GetServiceRequest{Ref: ref})
		if err != nil {
			return 0, err
		}
		if is(resp.GetService()) {
			return time.Since(began), nil
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			progress("  %v: %d of %d run", time.Since(began).Round(time.Second), resp.GetService().GetRunning(), resp.GetService().GetDesired())
		}
		// A poll costs the manager a look at every task: it may take a tenth of the time.
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(max(pollEvery, 9*time.Since(asked))):
		}
	}
}

// used notes what the managers have used since a mark, for each of n things.
func (s *stage) used(before []usage, n int, thing string) error {
	u, err := s.swarm.since(before)
	if err != nil {
		return err
	}
	s.note("manager CPU a "+thing, "µs", cpu, float64(u.cpu.Microseconds())/float64(n))
	s.note("written a "+thing, "B", plain, float64(u.written)/float64(n))
	s.note("manager's peak RSS", "MiB", plain, float64(u.peak)/(1<<20))
	return nil
}
