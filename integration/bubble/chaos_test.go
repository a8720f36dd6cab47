package bubble

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/skep-project/skep/agent/exec"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// chaosSteps is how many things happen to a swarm in one run.
const chaosSteps = 40

// TestASwarmThatSawManyFaultsEndsAsItIsWanted lets faults and wishes happen in
// an order drawn from a seed, ends all faults, and asks for three things: each
// node ready, each service as wanted, and no container that no task accounts for.
func TestASwarmThatSawManyFaultsEndsAsItIsWanted(t *testing.T) {
	for _, seed := range chaosSeeds() {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *cluster) {
				ms := c.managers(3, nil)
				c.workers(3, ms[0])
				x := &chaos{c: c, ms: ms, draw: rand.New(rand.NewPCG(seed, 0)), want: map[string]uint64{}}
				for _, name := range []string{"a", "b"} {
					ms[0].mustRun(name, 4)
					x.want[name] = 4
				}
				for range chaosSteps {
					x.step()
					time.Sleep(time.Duration(x.draw.IntN(6000)) * time.Millisecond)
				}
				x.heal()
				x.check()
			})
		})
	}
}

// chaos is one run.
type chaos struct {
	c    *cluster
	ms   []*host
	draw *rand.Rand
	want map[string]uint64 // replicas
	down []*host           // without a daemon
	gen  int
}

func (x *chaos) any() *host { return x.c.hosts[x.draw.IntN(len(x.c.hosts))] }

func (x *chaos) say(format string, args ...any) {
	x.c.t.Logf("t=%v CHAOS %s", time.Since(x.c.log.began), fmt.Sprintf(format, args...))
}

// step does one thing.
func (x *chaos) step() {
	h, o := x.any(), x.any()
	switch x.draw.IntN(16) {
	case 0, 1:
		x.say("dark %s", h.name)
		x.c.net.setDark(h.addr, true)
	case 2, 3:
		x.c.net.change(func() { clear(x.c.net.dark) })
		x.say("light")
	case 4:
		x.say("split %s %s", h.name, o.name)
		x.c.net.split(h.addr, o.addr, true)
	case 5:
		x.say("hold %s to %s", h.name, o.name)
		x.c.net.hold(h.addr, o.addr, true)
	case 6:
		x.c.net.change(func() { clear(x.c.net.held) })
		x.say("join")
	case 7, 8:
		x.fell(h)
	case 9, 10:
		x.raise()
	case 11:
		if tasks := h.containers.Running(); len(tasks) > 0 {
			x.say("a container on %s ends", h.name)
			h.containers.Exit(tasks[x.draw.IntN(len(tasks))], exec.Exit{Code: 1, At: time.Now()})
		}
	case 12:
		x.wish("scale", func(spec *modelv1.ServiceSpec, _ *modelv1.TaskTemplate) {
			spec.GetReplicated().Replicas = uint64(x.draw.IntN(7))
		})
	case 13:
		x.wish("update", func(_ *modelv1.ServiceSpec, template *modelv1.TaskTemplate) {
			x.gen++
			template.Container.Image = fmt.Sprintf("app:%d", x.gen)
		})
	case 14:
		x.role(x.ms[1+x.draw.IntN(2)], asWorker)
	case 15:
		x.role(x.ms[1+x.draw.IntN(2)], asManager)
	}
}

// role asks for another role of a node, through whoever takes it.
func (x *chaos) role(of *host, role modelv1.Role) {
	via := x.ms[x.draw.IntN(3)]
	if slices.Contains(x.down, via) {
		return
	}
	x.say("make %s a %v through %s: %v", of.name, role, via.name, via.update(of, role, 0))
}

// fell ends a host's daemon in one of three ways.
func (x *chaos) fell(h *host) {
	if slices.Contains(x.down, h) {
		return
	}
	x.down = append(x.down, h)
	switch x.draw.IntN(3) {
	case 0:
		x.say("kill %s", h.name)
		h.kill()
	case 1:
		x.say("stop %s", h.name)
		h.shutdown()
	default:
		x.say("reboot %s", h.name)
		h.kill()
		h.containers.Reboot()
		h.boot()
	}
}

func (x *chaos) raise() {
	for _, h := range x.down {
		x.say("start %s", h.name)
		h.start()
	}
	x.down = nil
}

// wish changes a service, if a manager takes it; what became of a change that was
// not answered is asked for later.
func (x *chaos) wish(what string, change func(*modelv1.ServiceSpec, *modelv1.TaskTemplate)) {
	via := x.ms[x.draw.IntN(3)]
	name := []string{"a", "b"}[x.draw.IntN(2)]
	if slices.Contains(x.down, via) {
		return
	}
	ctx, stop := x.c.within(3 * time.Second)
	defer stop()
	got, err := via.control().GetService(ctx, &controlv1.GetServiceRequest{Ref: name})
	if err != nil {
		x.say("%s %s: %v", what, name, err)
		return
	}
	v := got.GetService()
	change(v.GetService().GetSpec(), v.GetTemplate())
	_, err = via.control().UpdateService(ctx, &controlv1.UpdateServiceRequest{
		RequestId: requestID(), Ref: name, Version: v.GetService().GetMeta().GetVersion(),
		Spec: v.GetService().GetSpec(), Template: v.GetTemplate(),
	})
	x.say("%s %s through %s: %v", what, name, via.name, err)
}

// heal ends every fault.
func (x *chaos) heal() {
	x.c.net.change(func() { clear(x.c.net.held); clear(x.c.net.dark) })
	x.raise()
	x.say("healed")
	for _, m := range x.ms {
		x.c.until(30*time.Second, m.name+" to be a manager", func() bool {
			return slices.ContainsFunc(x.ms, func(via *host) bool { return via.update(m, asManager, 0) == nil })
		})
	}
	x.c.until(time.Minute, "three voters", func() bool {
		voters := 0
		for _, v := range x.ms[0].nodesIfManager() {
			if v.GetManager().GetVoter() {
				voters++
			}
		}
		return voters == 3
	})
}

// check asks for what must be true in the end.
func (x *chaos) check() {
	m := x.ms[0]
	x.c.until(10*time.Second, "a read by quorum", func() bool {
		ctx, stop := x.c.within(3 * time.Second)
		defer stop()
		return x.read(ctx) == nil
	})
	x.c.until(30*time.Second, "every node ready", func() bool {
		for _, v := range m.nodes() {
			if v.GetNode().GetStatus().GetState() != ready {
				return false
			}
		}
		return true
	})
	last := ""
	defer func() { x.say("%s", last) }()
	x.c.until(2*time.Minute, "every service as wanted", func() bool {
		var up int
		last, up = "", 0
		ok := true
		for name, want := range x.want {
			tasks := ids(m.tasks(name, isRunning))
			last += fmt.Sprintf("%s: %d of %d run; ", name, len(tasks), want)
			ok = ok && len(tasks) == int(want)
			up += len(tasks)
		}
		found := 0
		for _, h := range x.c.hosts {
			found += len(h.containers.Running())
			last += fmt.Sprintf("%s has %d; ", h.name, len(h.containers.Running()))
		}
		return ok && found == up
	})
	for _, h := range x.c.hosts {
		for _, task := range h.containers.Tasks() {
			if got := h.containers.Starts(task); got > 1 {
				x.c.t.Errorf("task %s was started %d times on %s", task, got, h.name)
			}
		}
	}
}

// read reads what is wanted of each service.
func (x *chaos) read(ctx context.Context) error {
	for name := range x.want {
		got, err := x.ms[0].control().GetService(ctx, &controlv1.GetServiceRequest{Ref: name})
		if err != nil {
			return err
		}
		x.want[name] = got.GetService().GetService().GetSpec().GetReplicated().GetReplicas()
	}
	return nil
}
