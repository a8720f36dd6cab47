package service

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func inspect(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show services in full",
		ArgsUsage: "SERVICE...",
		Flags:     append(show.InspectFlags(), conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer)),
		Before: func(c *cli.Context) error {
			if err := show.CheckInspect(c); err != nil {
				return err
			}
			return need(c)
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			var found []*controlv1.ServiceView
			missing := conn.Each(ctx, c.Args().Slice(), func(ctx context.Context, ref string) error {
				v, err := get(ctx, api, ref)
				if err == nil {
					found = append(found, v)
				}
				return err
			})
			if err := print(s, c, found); err != nil {
				return err
			}
			return missing
		}),
	}
}

func print(s *say.Streams, c *cli.Context, found []*controlv1.ServiceView) error {
	if c.Bool("pretty") {
		for _, v := range found {
			if err := pretty(s, v).Print(s.Out); err != nil {
				return err
			}
		}
		return nil
	}
	objects := make([]object, 0, len(found))
	for _, v := range found {
		objects = append(objects, newObject(v))
	}
	return show.Inspect(s.Out, c.String("format"), objects)
}

func pretty(io *say.Streams, v *controlv1.ServiceView) *show.Sheet {
	svc, tpl := v.GetService(), v.GetTemplate()
	s := &show.Sheet{}
	s.Field("ID", idOf(v))
	s.Field("Name", svc.GetSpec().GetName())
	s.Items("Labels", show.Labels(svc.GetSpec().GetLabels()))
	s.Field("Service Mode", show.Title(mode(v)))
	if r := svc.GetSpec().GetReplicated(); r != nil {
		s.Field(" Replicas", strconv.FormatUint(r.GetReplicas(), 10))
	}
	if u := svc.GetUpdate(); u.GetState() != modelv1.UpdateState_UPDATE_STATE_UNSPECIFIED {
		s.Block("UpdateStatus", func(s *show.Sheet) {
			s.Field("State", updateState(u.GetState()))
			s.Field("Started", since(io, u.GetStartedAt()))
			s.Field("Completed", since(io, u.GetCompletedAt()))
			s.Field("Message", u.GetMessage())
		})
	}
	s.Block("Placement", func(s *show.Sheet) { prettyPlacement(s, tpl.GetPlacement()) })
	s.Block("UpdateConfig", func(s *show.Sheet) { prettyUpdate(s, "Update", svc.GetSpec().GetUpdate()) })
	s.Block("RollbackConfig", func(s *show.Sheet) { prettyUpdate(s, "Rollback", svc.GetSpec().GetRollback()) })
	s.Block("RestartPolicy", func(s *show.Sheet) { prettyRestart(s, svc.GetSpec().GetRestart()) })
	prettyContainer(s, tpl.GetContainer())
	s.Block("Resources", func(s *show.Sheet) { prettyResources(s, tpl) })
	return s
}

func prettyPlacement(s *show.Sheet, p *modelv1.Placement) {
	s.Field("Constraints", bracketed(p.GetConstraints()))
	var spread []string
	for _, over := range p.GetSpread() {
		spread = append(spread, "spread="+over)
	}
	s.Field("Preferences", strings.Join(spread, ", "))
	s.Field("Max Replicas Per Node", number(int64(p.GetMaxReplicasPerNode())))
}

func prettyUpdate(s *show.Sheet, name string, c *modelv1.UpdateConfig) {
	if c == nil {
		return
	}
	o := newUpdateConfig(c)
	s.Field("Parallelism", strconv.FormatUint(o.Parallelism, 10))
	s.Field("Delay", duration(c.GetDelay()))
	s.Field("On failure", o.FailureAction)
	s.Field("Monitoring Period", duration(c.GetMonitor()))
	s.Field("Max failure ratio", fmt.Sprintf("%g", o.MaxFailureRatio))
	s.Field(name+" order", o.Order)
}

func prettyRestart(s *show.Sheet, r *modelv1.RestartPolicy) {
	if r == nil {
		return
	}
	s.Field("Condition", word(r.GetCondition().String(), "RESTART_CONDITION_", "any"))
	s.Field("Delay", duration(r.GetDelay()))
	s.Field("Max attempts", number(int64(r.GetMaxAttempts())))
	s.Field("Window", duration(r.GetWindow()))
}

func prettyContainer(s *show.Sheet, c *modelv1.ContainerSpec) {
	s.Block("ContainerSpec", func(s *show.Sheet) {
		s.Field("Image", show.Image(c.GetImage(), true))
		s.Field("Command", strings.Join(c.GetCommand(), " "))
		s.Field("Args", strings.Join(c.GetArgs(), " "))
		s.Field("Env", strings.Join(c.GetEnv(), " "))
		s.Field("Dir", c.GetDir())
		if c.GetInit() {
			s.Field("Init", "true")
		}
		s.Field("User", c.GetUser())
		s.Block("Capabilities", func(s *show.Sheet) {
			s.Field("Add", strings.Join(c.GetCapAdd(), ", "))
			s.Field("Drop", strings.Join(c.GetCapDrop(), ", "))
		})
	})
	s.Items("SysCtls", show.Labels(c.GetSysctls()))
	s.Block("Ulimits", func(s *show.Sheet) {
		for _, u := range c.GetUlimits() {
			s.Field(u.GetName(), fmt.Sprintf("%d:%d", u.GetSoft(), u.GetHard()))
		}
	})
	s.Block("Mounts", func(s *show.Sheet) {
		for _, m := range c.GetMounts() {
			s.Field("Target", m.GetTarget())
			s.Field(" Source", m.GetSource())
			s.Field(" ReadOnly", strconv.FormatBool(m.GetReadOnly()))
			s.Field(" Type", mountType(m))
		}
	})
}

func prettyResources(s *show.Sheet, t *modelv1.TaskTemplate) {
	r, l := t.GetReservations(), t.GetLimits()
	s.Block("Reservations", func(s *show.Sheet) {
		s.Field("CPU", cpus(r.GetNanoCpus()))
		s.Field("Memory", size(r.GetMemoryBytes()))
	})
	s.Block("Limits", func(s *show.Sheet) {
		s.Field("CPU", cpus(l.GetNanoCpus()))
		s.Field("Memory", size(l.GetMemoryBytes()))
		s.Field("PIDs", number(l.GetPids()))
	})
}

func bracketed(items []string) string {
	if len(items) == 0 {
		return ""
	}
	return "[" + strings.Join(items, " ") + "]"
}

// number, cpus, size and duration print what is set and nothing for zero.
func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}

func cpus(n int64) string {
	if n == 0 {
		return ""
	}
	return show.CPUs(n)
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return show.Bytes(n)
}

func duration(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Duration(ns).String()
}
