// Package spec turns the flags of "service create" and "service update" into
// what a service is: its own spec and its task template.
//
// It owns the flags' names and grammars, which are Docker's. It checks what can
// be known from the words alone; images, constraints and what a swarm has are
// checked by the manager.
//
// Invariant: a flag that Swarm has and Skep does not serve yet is refused by
// name, never ignored and never "unknown".
package spec

import (
	"errors"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/cli/say"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Flags is what a command line said. A *cli.Context is one.
type Flags interface {
	IsSet(name string) bool
	String(name string) string
	StringSlice(name string) []string
	Bool(name string) bool
}

// A Host is what parsing reads besides the flags.
type Host struct {
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
}

// Create returns the service that the flags and the words behind them describe:
// the image, then the command's arguments.
func Create(f Flags, host Host, words []string) (*modelv1.ServiceSpec, *modelv1.TaskTemplate, error) {
	if len(words) == 0 || words[0] == "" {
		return nil, nil, say.Hinted(say.Misuse("service create: no image given"),
			`"ctl service create [FLAGS] IMAGE [COMMAND] [ARG...]"`)
	}
	if err := refuseUnserved(f); err != nil {
		return nil, nil, err
	}
	p := &parser{f: f, host: host}
	svc := &modelv1.ServiceSpec{Name: f.String("name")}
	tpl := &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{
		Image: words[0],
		Args:  words[1:],
		Env:   p.env(),
	}}
	p.mode(svc)
	svc.Labels = p.pairs("label", nil)
	tpl.Container.Labels = p.pairs("container-label", nil)
	tpl.Container.Sysctls = p.pairs("sysctl", nil)
	tpl.Container.Groups = f.StringSlice("group")
	tpl.Container.Hosts = p.hosts("host")
	tpl.Container.Mounts = p.mounts("mount")
	tpl.Container.Ulimits = p.ulimits("ulimit")
	tpl.Container.CapAdd = capabilities(f.StringSlice("cap-add"))
	tpl.Container.CapDrop = capabilities(f.StringSlice("cap-drop"))
	if c, prefs := f.StringSlice("constraint"), p.preferences("placement-pref"); len(c)+len(prefs) > 0 {
		tpl.Placement = &modelv1.Placement{Constraints: c, Spread: prefs}
	}
	p.common(svc, tpl)
	return svc, tpl, p.err()
}

// Update returns the service as the flags change it, and the template or nil if
// it stays as it is. Neither svc nor tpl is touched.
func Update(f Flags, host Host, svc *modelv1.ServiceSpec, tpl *modelv1.TaskTemplate) (*modelv1.ServiceSpec, *modelv1.TaskTemplate, error) {
	if err := refuseUnserved(f); err != nil {
		return nil, nil, err
	}
	was := tpl
	svc, tpl = proto.CloneOf(svc), proto.CloneOf(tpl)
	if tpl.Container == nil {
		tpl.Container = &modelv1.ContainerSpec{}
	}
	p := &parser{f: f, host: host}
	if f.IsSet("image") {
		tpl.Container.Image = f.String("image")
		p.check(f.String("image") != "", "--image: is empty")
	}
	if f.IsSet("args") {
		tpl.Container.Args = p.words("args")
	}
	if f.IsSet("replicas") {
		p.replicas(svc)
	}
	if f.Bool("force") {
		tpl.Force++
	}
	p.updateLists(svc, tpl)
	p.common(svc, tpl)
	if err := p.err(); err != nil {
		return nil, nil, err
	}
	if proto.Equal(was, tpl) {
		tpl = nil
	}
	return svc, tpl, nil
}

// Scale returns svc with n replicas.
func Scale(svc *modelv1.ServiceSpec, n uint64) (*modelv1.ServiceSpec, error) {
	if svc.GetGlobal() != nil {
		return nil, say.Hinted(errors.New("scale "+svc.GetName()+": a global service has one task on each node"),
			"add nodes, or narrow it with --constraint-add")
	}
	svc = proto.CloneOf(svc)
	svc.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: n}}
	return svc, nil
}

// A parser reads flags and collects what is wrong with them.
type parser struct {
	f      Flags
	host   Host
	faults []string
}

// err returns every fault at once.
func (p *parser) err() error {
	if len(p.faults) == 0 {
		return nil
	}
	return say.Misuse("%s", strings.Join(p.faults, "; "))
}

func (p *parser) check(ok bool, fault string) {
	if !ok {
		p.faults = append(p.faults, fault)
	}
}

// common reads the flags that create and update share. What was not given
// stays as it is.
func (p *parser) common(svc *modelv1.ServiceSpec, tpl *modelv1.TaskTemplate) {
	p.container(tpl.Container)
	p.resources(tpl)
	p.policies(svc)
	if p.f.IsSet("replicas-max-per-node") {
		if tpl.Placement == nil {
			tpl.Placement = &modelv1.Placement{}
		}
		tpl.Placement.MaxReplicasPerNode = p.count("replicas-max-per-node")
	}
}

func (p *parser) container(c *modelv1.ContainerSpec) {
	text := func(to *string, name string) {
		if p.f.IsSet(name) {
			*to = p.f.String(name)
		}
	}
	toggle := func(to *bool, name string) {
		if p.f.IsSet(name) {
			*to = p.f.Bool(name)
		}
	}
	text(&c.User, "user")
	text(&c.Dir, "workdir")
	text(&c.Hostname, "hostname")
	text(&c.StopSignal, "stop-signal")
	toggle(&c.ReadOnly, "read-only")
	toggle(&c.Tty, "tty")
	toggle(&c.Init, "init")
	if p.f.IsSet("entrypoint") {
		c.Command = p.words("entrypoint")
	}
	if p.f.IsSet("stop-grace-period") {
		c.StopGracePeriod = p.duration("stop-grace-period")
	}
	if p.f.IsSet("oom-score-adj") {
		c.OomScoreAdj = p.between("oom-score-adj", -1000, 1000)
	}
}

func (p *parser) resources(tpl *modelv1.TaskTemplate) {
	if p.any("limit-cpu", "limit-memory", "limit-pids") {
		if tpl.Limits == nil {
			tpl.Limits = &modelv1.Limits{}
		}
		p.cpus(&tpl.Limits.NanoCpus, "limit-cpu")
		p.bytes(&tpl.Limits.MemoryBytes, "limit-memory")
		if p.f.IsSet("limit-pids") {
			tpl.Limits.Pids = p.between("limit-pids", 0, 1<<22)
		}
	}
	if p.any("reserve-cpu", "reserve-memory") {
		if tpl.Reservations == nil {
			tpl.Reservations = &modelv1.Resources{}
		}
		p.cpus(&tpl.Reservations.NanoCpus, "reserve-cpu")
		p.bytes(&tpl.Reservations.MemoryBytes, "reserve-memory")
	}
	limit, reserve := tpl.GetLimits(), tpl.GetReservations()
	p.check(limit.GetNanoCpus() == 0 || reserve.GetNanoCpus() <= limit.GetNanoCpus(),
		"--reserve-cpu is above --limit-cpu")
	p.check(limit.GetMemoryBytes() == 0 || reserve.GetMemoryBytes() <= limit.GetMemoryBytes(),
		"--reserve-memory is above --limit-memory")
}

func (p *parser) mode(svc *modelv1.ServiceSpec) {
	switch mode := p.f.String("mode"); mode {
	case "", "replicated":
		svc.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 1}}
		if p.f.IsSet("replicas") {
			p.replicas(svc)
		}
	case "global":
		svc.Mode = &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}
		p.check(!p.f.IsSet("replicas"), "--replicas: a global service has one task on each node")
		p.check(!p.f.IsSet("replicas-max-per-node"), "--replicas-max-per-node: a global service has one task on each node")
	case "replicated-job", "global-job":
		p.check(false, "--mode "+mode+": jobs are not served yet")
	default:
		p.check(false, "--mode "+quote(mode)+": want replicated or global")
	}
}

func (p *parser) replicas(svc *modelv1.ServiceSpec) {
	if svc.GetGlobal() != nil {
		p.check(false, "--replicas: a global service has one task on each node")
		return
	}
	svc.Mode = &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: p.count("replicas")}}
}
