package main

import (
	"context"
	"fmt"
	"time"

	"github.com/skep-project/skep/cli/conn"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// deploy makes a service of many replicas, until the API says that all run, and
// scales it to none, until the API shows no task of it.
func deploy(ctx context.Context, s *stage) error {
	idle, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	began := time.Now()
	if _, err := s.create(ctx, "deploy", s.replicas); err != nil {
		return err
	}
	took, err := s.until(ctx, "deploy", began, func(v *controlv1.ServiceView) bool {
		return v.GetRunning() == uint64(s.replicas)
	})
	if err != nil {
		return err
	}
	s.note("all running", "s", cpu, took.Seconds())
	if err := s.used(before, s.replicas, "task"); err != nil {
		return err
	}
	full, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	s.note("live heap a task", "B", plain, (float64(full.LiveBytes)-float64(idle.LiveBytes))/float64(s.replicas))
	return s.scaleDown(ctx)
}

// curve deploys ten times as many tasks again and again, up to the scenario's
// replicas, each beside nothing else, and tells what a task cost at each size.
func curve(ctx context.Context, s *stage) error {
	idle, err := s.swarm.managers[0].heap(ctx)
	if err != nil {
		return err
	}
	for _, n := range sizes(s.replicas) {
		if err := s.point(ctx, n, idle); err != nil {
			return fmt.Errorf("%d tasks: %w", n, err)
		}
	}
	return nil
}

// sizes are up to four sizes, each ten times the one before, the last one n.
func sizes(n int) (all []int) {
	for ; len(all) < 4 && n > 0; n /= 10 {
		all = append([]int{n}, all...)
	}
	return all
}

// point is one point of the curve; the last one is the scenario's figure.
func (s *stage) point(ctx context.Context, n int, idle heap) error {
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	began, services := time.Now(), shares(n)
	for name, replicas := range services {
		if _, err := s.create(ctx, name, replicas); err != nil {
			return err
		}
	}
	for name, replicas := range services {
		if _, err := s.until(ctx, name, began, func(v *controlv1.ServiceView) bool { return v.GetRunning() == uint64(replicas) }); err != nil { //nolint:gosec // not negative
			return err
		}
	}
	took := time.Since(began)
	u, err := s.swarm.since(before)
	if err != nil {
		return err
	}
	s.note(fmt.Sprintf("%d tasks running", n), "s", cpu, took.Seconds())
	s.note(fmt.Sprintf("CPU a task, %d tasks", n), "µs", cpu, float64(u.cpu.Microseconds())/float64(n))
	if n == s.replicas {
		h, err := s.swarm.managers[0].heap(ctx)
		if err != nil {
			return err
		}
		s.note("all running", "s", cpu, took.Seconds())
		s.note("manager's peak RSS", "MiB", plain, float64(u.peak)/(1<<20))
		s.note("live heap a task", "B", plain, (float64(h.LiveBytes)-float64(idle.LiveBytes))/float64(n))
	}
	for name := range services {
		if _, err := s.swarm.control().RemoveService(ctx, &controlv1.RemoveServiceRequest{RequestId: conn.RequestID(), Ref: name}); err != nil {
			return err
		}
	}
	return s.gone(ctx)
}

// largest is how many replicas a service may have.
const largest = 100_000

// shares are the services that n tasks are of, with the replicas of each.
func shares(n int) map[string]int {
	all := make(map[string]int)
	for ; n > 0; n -= largest {
		all[fmt.Sprintf("deploy-%d", len(all)+1)] = min(n, largest)
	}
	return all
}

// gone waits until no service is left, so that the next one stands alone.
func (s *stage) gone(ctx context.Context) error {
	for began := time.Now(); ; {
		asked := time.Now()
		resp, err := s.swarm.control().ListServices(ctx, &controlv1.ListServicesRequest{})
		if err != nil {
			return err
		}
		if len(resp.GetServices()) == 0 {
			return nil
		}
		if !wait(ctx, rest(began, asked)) {
			return context.Cause(ctx)
		}
	}
}

// scaleDown takes all replicas away.
func (s *stage) scaleDown(ctx context.Context) error {
	began := time.Now()
	if err := s.update(ctx, "deploy", func(v *controlv1.ServiceView) {
		v.Service.Spec.GetReplicated().Replicas = 0
	}, false); err != nil {
		return err
	}
	if _, err := s.until(ctx, "deploy", began, func(v *controlv1.ServiceView) bool { return v.GetRunning() == 0 }); err != nil {
		return err
	}
	for {
		resp, err := s.swarm.control().ListTasks(ctx, &controlv1.ListTasksRequest{Filter: &controlv1.Filter{
			Services: []string{"deploy"}, Desired: []modelv1.TaskState{modelv1.TaskState_TASK_STATE_RUNNING},
		}})
		if err != nil {
			return err
		}
		if len(resp.GetTasks()) == 0 {
			break
		}
	}
	s.note("scaled to 0", "s", cpu, time.Since(began).Seconds())
	return nil
}

// update changes a service as it is now; with the template too if templated.
func (s *stage) update(ctx context.Context, ref string, change func(*controlv1.ServiceView), templated bool) error {
	resp, err := s.swarm.control().GetService(ctx, &controlv1.GetServiceRequest{Ref: ref})
	if err != nil {
		return err
	}
	v := resp.GetService()
	change(v)
	req := &controlv1.UpdateServiceRequest{
		RequestId: conn.RequestID(), Ref: ref, Version: v.GetService().GetMeta().GetVersion(), Spec: v.GetService().GetSpec(),
	}
	if templated {
		req.Template = v.GetTemplate()
	}
	_, err = s.swarm.control().UpdateService(ctx, req)
	return err
}

// roll changes the template of a service that runs, until all of it is new.
func roll(ctx context.Context, s *stage) error {
	began := time.Now()
	if _, err := s.create(ctx, "roll", s.replicas); err != nil {
		return err
	}
	runs := func(v *controlv1.ServiceView) bool { return v.GetRunning() == uint64(s.replicas) }
	if _, err := s.until(ctx, "roll", began, runs); err != nil {
		return err
	}
	before, err := s.swarm.mark()
	if err != nil {
		return err
	}
	began = time.Now()
	if err := s.update(ctx, "roll", func(v *controlv1.ServiceView) { v.Template = template("new") }, true); err != nil {
		return err
	}
	took, err := s.until(ctx, "roll", began, func(v *controlv1.ServiceView) bool {
		return v.GetService().GetUpdate().GetState() == modelv1.UpdateState_UPDATE_STATE_COMPLETED && runs(v)
	})
	if err != nil {
		return err
	}
	s.note("rolled", "s", cpu, took.Seconds())
	return s.used(before, s.replicas, "task")
}

// one makes services of one task on an idle swarm, one after the other.
func one(ctx context.Context, s *stage) error {
	for range s.pace.ones {
		took, err := s.single(ctx)
		if err != nil {
			return err
		}
		s.note("created to running", "ms", cpu, float64(took.Microseconds())/1000)
	}
	return nil
}

// single makes a service of one task, and watches it until that runs.
func (s *stage) single(ctx context.Context) (time.Duration, error) {
	name := "one-" + time.Now().Format("150405.000000000")[7:]
	began := time.Now()
	if _, err := s.create(ctx, name, 1); err != nil {
		return 0, err
	}
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	watch, err := s.swarm.control().WatchService(ctx, &controlv1.WatchServiceRequest{Ref: name})
	if err != nil {
		return 0, err
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			return 0, err
		}
		for _, t := range m.GetTasks() {
			if t.GetTask().GetStatus().GetState() == modelv1.TaskState_TASK_STATE_RUNNING {
				return time.Since(began), nil
			}
		}
	}
}
