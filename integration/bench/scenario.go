package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	fleets "github.com/skep-project/skep/integration/fleet"
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
	kind     string
	// rows are the figures that a run gives, with what they are to be. The one
	// of a run's size beside what the base took is made of both afterwards.
	rows map[string]target
	// base is the scenario that this one is compared with.
	base string
	on   ground
	// late says that the agents join as the scenario has them, not before.
	late bool
	// slow says that it is not run unless it is named.
	slow bool
	pace pace
	play func(context.Context, *stage) error
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

// A pace is how often and for how long a scenario does things in one run.
type pace struct {
	ask    time.Duration // for how long clients and writers ask
	idle   time.Duration // for how long an idle swarm is looked at
	settle time.Duration // how long it is left alone before
	ones   int           // services of a single task
	trials int           // losses of a leader
	hosts  int           // losses of a host, or of a manager's vote
}

// paces returns the pace of a measurement of so many runs, or of the short form.
// Leaders are lost twenty times over all runs.
func paces(o options) pace {
	if o.short {
		return pace{ask: 200 * time.Millisecond, idle: 200 * time.Millisecond, ones: 2, trials: 1, hosts: 1}
	}
	return pace{ask: 3 * time.Second, idle: 20 * time.Second, settle: 5 * time.Second,
		ones: 20, trials: (20 + o.runs - 1) / o.runs, hosts: 2}
}

// small is the scenario in the short form: all it does, with few of everything.
func (s scenario) small() scenario {
	s.agents, s.replicas = min(s.agents, 12), min(s.replicas, 40)
	if s.base != "" {
		s.agents, s.base = min(s.agents+1, 13), "deploy 1m 12 light ×40"
	}
	if s.kind == labHosts {
		s.replicas = min(s.replicas, 4)
	}
	return s
}

// A stage is where one run is played.
type stage struct {
	scenario
	swarm  *swarm
	fleet  *fleet
	hosts  *fleets.Fleet
	group  *group
	book   *book
	dir    string
	ending []func() error
}

// once plays the scenario on ground made for it.
func (s scenario) once(ctx context.Context, o options, b *book) (err error) {
	st, err := s.on(ctx, s, o, b)
	if err != nil {
		return err
	}
	defer func() {
		for i := len(st.ending) - 1; i >= 0; i-- {
			err = errors.Join(err, st.ending[i]())
		}
	}()
	if err = s.play(ctx, st); err != nil && st.swarm != nil {
		err = errors.Join(err, st.swarm.words())
	}
	return err
}

// managers is the ground of most scenarios: managers as processes, and the
// agents ready.
func managers(ctx context.Context, s scenario, o options, b *book) (*stage, error) {
	sw, err := raise(ctx, o, s)
	if err != nil {
		return nil, err
	}
	st := &stage{scenario: s, swarm: sw, fleet: &fleet{}, book: b, dir: sw.dir}
	st.ending = []func() error{sw.close, func() error { st.fleet.end(); return nil }}
	if s.agents > 0 && !s.late {
		if err := st.man(ctx); err != nil {
			st.fleet.end()
			return nil, errors.Join(err, sw.words(), sw.close())
		}
	}
	return st, nil
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
	return createAt(ctx, s.swarm.control(), name, n)
}

func createAt(ctx context.Context, c controlv1.ControlClient, name string, n int) ([]byte, error) {
	resp, err := c.CreateService(ctx, &controlv1.CreateServiceRequest{
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

// pollEvery is how often the API is asked how far things are, at most.
const pollEvery = 10 * time.Millisecond

// rest is how long the API is left alone after a question. One costs the manager
// a look at every task, so that asking may take a tenth of the time; but a figure
// is not to be late by more than a twentieth of it, and a question that was slow
// because all else was busy says nothing of the next.
func rest(began, asked time.Time) time.Duration {
	return max(pollEvery, min(9*time.Since(asked), time.Since(began)/20))
}

// until asks the API for a service until it is as it should be, and says how
// long that took since began.
func (s *stage) until(ctx context.Context, ref string, began time.Time, is func(*controlv1.ServiceView) bool) (time.Duration, error) {
	return untilAt(ctx, s.swarm.control(), ref, began, is)
}

// serviceTime bounds a service's way to where it should be: a million tasks take
// minutes.
const serviceTime = 20 * time.Minute

func untilAt(ctx context.Context, c controlv1.ControlClient, ref string, began time.Time, is func(*controlv1.ServiceView) bool) (time.Duration, error) {
	ctx, stop := context.WithTimeoutCause(ctx, serviceTime, fmt.Errorf("service %s is not as it should be after %v", ref, serviceTime))
	defer stop()
	told := began
	for {
		asked := time.Now()
		resp, err := c.GetService(ctx, &controlv1.GetServiceRequest{Ref: ref})
		if err != nil && !passes(err) {
			return 0, errors.Join(err, context.Cause(ctx))
		}
		if err == nil && is(resp.GetService()) {
			return time.Since(began), nil
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			if err != nil {
				progress("  %v: asked again: %v", time.Since(began).Round(time.Second), err)
			} else {
				progress("  %v: %d of %d run", time.Since(began).Round(time.Second), resp.GetService().GetRunning(), resp.GetService().GetDesired())
			}
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(rest(began, asked)):
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
