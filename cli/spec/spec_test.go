package spec_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/spec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// line is a command line's flags: "name=value", repeated names are lists.
type line []string

func (l line) all(name string) (out []string) {
	for _, f := range l {
		if k, v, _ := strings.Cut(f, "="); k == name {
			out = append(out, v)
		}
	}
	return out
}

func (l line) IsSet(name string) bool           { return len(l.all(name)) > 0 }
func (l line) StringSlice(name string) []string { return l.all(name) }
func (l line) Bool(name string) bool            { return l.IsSet(name) && l.String(name) != "false" }
func (l line) String(name string) string {
	if all := l.all(name); len(all) > 0 {
		return all[len(all)-1]
	}
	return ""
}

var host = spec.Host{
	Getenv: func(k string) string { return map[string]string{"HOME": "/root"}[k] },
	ReadFile: func(name string) ([]byte, error) {
		if name == "env" {
			return []byte("# a comment\n\nFILE=1\nBOTH=file\nHOME\nABSENT\n"), nil
		}
		return nil, errors.New("open " + name + ": no such file")
	},
}

func TestCreateReadsEveryFlag(t *testing.T) {
	t.Parallel()
	svc, tpl, err := spec.Create(line{
		"name=web", "replicas=3", "label=a=1", "label=b", "container-label=c=2", "env-file=env", "env=BOTH=flag", "env=HOME", "env=NONE",
		"mount=type=tmpfs,target=/tmp,tmpfs-size=64m,tmpfs-mode=1770", "mount=type=bind,src=/a,dst=/b,ro,bind-propagation=rshared",
		"constraint=node.role == manager", "placement-pref=spread=node.labels.rack", "replicas-max-per-node=2",
		"limit-cpu=0.5", "limit-memory=64m", "limit-pids=10", "reserve-cpu=.25", "reserve-memory=32m",
		"restart-condition=on-failure", "restart-max-attempts=3", "restart-window=1m",
		"update-parallelism=0", "update-failure-action=rollback", "update-max-failure-ratio=0.2", "rollback-order=start-first",
		"user=nobody", "workdir=/w", "hostname={{.Service.Name}}", "read-only", "tty", "init=false", "cap-add=net_admin", "cap-drop=ALL",
		"stop-signal=SIGINT", "stop-grace-period=1m", "entrypoint=sh -c 'a b'", "ulimit=nofile=10:20", "sysctl=net.x=1", "group=staff",
		"host=db:192.0.2.7",
	}, host, []string{"alpine", "ping", "-c", "1"})
	if err != nil {
		t.Fatal(err)
	}
	wantSvc := &modelv1.ServiceSpec{
		Name: "web", Labels: map[string]string{"a": "1", "b": ""},
		Mode:    &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 3}},
		Restart: &modelv1.RestartPolicy{Condition: modelv1.RestartCondition_RESTART_CONDITION_ON_FAILURE, Delay: int64(5 * time.Second), MaxAttempts: 3, Window: int64(time.Minute)},
		Update: &modelv1.UpdateConfig{FailureAction: modelv1.FailureAction_FAILURE_ACTION_ROLLBACK, Monitor: int64(5 * time.Second),
			MaxFailureRatio: 0.2, Order: modelv1.UpdateOrder_UPDATE_ORDER_STOP_FIRST},
		Rollback: &modelv1.UpdateConfig{Parallelism: 1, FailureAction: modelv1.FailureAction_FAILURE_ACTION_PAUSE, Monitor: int64(5 * time.Second),
			Order: modelv1.UpdateOrder_UPDATE_ORDER_START_FIRST},
	}
	if diff := cmp.Diff(wantSvc, svc, protocmp.Transform()); diff != "" {
		t.Errorf("service differs (-want +got):\n%s", diff)
	}
	wantTpl := &modelv1.TaskTemplate{
		Container: &modelv1.ContainerSpec{
			Image: "alpine", Args: []string{"ping", "-c", "1"}, Command: []string{"sh", "-c", "a b"},
			Env:    []string{"FILE=1", "BOTH=flag", "HOME=/root"},
			Labels: map[string]string{"c": "2"}, User: "nobody", Dir: "/w", Hostname: "{{.Service.Name}}", ReadOnly: true, Tty: true,
			CapAdd: []string{"CAP_NET_ADMIN"}, CapDrop: []string{"ALL"}, StopSignal: "SIGINT", StopGracePeriod: int64(time.Minute),
			Ulimits: []*modelv1.Ulimit{{Name: "nofile", Soft: 10, Hard: 20}}, Sysctls: map[string]string{"net.x": "1"},
			Groups: []string{"staff"}, Hosts: []string{"192.0.2.7 db"},
			Mounts: []*modelv1.Mount{
				{Type: modelv1.MountType_MOUNT_TYPE_TMPFS, Target: "/tmp", TmpfsSize: 64 << 20, TmpfsMode: 0o1770},
				{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: "/a", Target: "/b", ReadOnly: true, Propagation: "rshared"},
			},
		},
		Limits:       &modelv1.Limits{NanoCpus: 5e8, MemoryBytes: 64 << 20, Pids: 10},
		Reservations: &modelv1.Resources{NanoCpus: 25e7, MemoryBytes: 32 << 20},
		Placement:    &modelv1.Placement{Constraints: []string{"node.role == manager"}, Spread: []string{"node.labels.rack"}, MaxReplicasPerNode: 2},
	}
	if diff := cmp.Diff(wantTpl, tpl, protocmp.Transform()); diff != "" {
		t.Errorf("template differs (-want +got):\n%s", diff)
	}
}

func TestCreateLeavesDefaultsToTheManager(t *testing.T) {
	t.Parallel()
	svc, tpl, err := spec.Create(line{}, host, []string{"alpine"})
	if err != nil {
		t.Fatal(err)
	}
	want := &modelv1.ServiceSpec{Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 1}}}
	if diff := cmp.Diff(want, svc, protocmp.Transform()); diff != "" {
		t.Errorf("service differs (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}}, tpl, protocmp.Transform()); diff != "" {
		t.Errorf("template differs (-want +got):\n%s", diff)
	}
}

func TestNonsenseIsNamedAllAtOnce(t *testing.T) {
	t.Parallel()
	for flag, want := range map[string]string{
		"replicas=-1":                      "want a whole number",
		"replicas=99999999999999999999":    "want a whole number",
		"mode=global-job":                  "jobs are not served yet",
		"mode=everywhere":                  "want replicated or global",
		"limit-cpu=1e9":                    "number of CPUs",
		"limit-memory=-1":                  "want a size",
		"update-delay=5":                   "want a duration",
		"restart-delay=-1s":                "want a duration",
		"update-max-failure-ratio=1.5":     "want a share",
		"rollback-failure-action=rollback": "a rollback is not rolled back",
		"restart-condition=always":         "none, on-failure or any",
		"env==x":                           "want KEY=VALUE",
		"env-file=nowhere":                 "no such file",
		"mount=type=volume,target=rel":     "absolute path",
		"mount=type=image,target=/x":       "not served yet",
		"ulimit=nofile":                    "NAME=SOFT",
		"entrypoint='unclosed":             "out of place",
		"host=nobody":                      "NAME:ADDRESS",
		"placement-pref=binpack=x":         "spread=",
		"oom-score-adj=2000":               "from -1000 to 1000",
		"network=n":                        "networks are not served",
		"health-cmd=true":                  "health checks are not served",
	} {
		_, _, err := spec.Create(line{flag}, host, []string{"alpine"})
		if err == nil || !strings.Contains(err.Error(), want) || say.Code(err) != say.Misused {
			t.Errorf("--%s: %v, want %q", flag, err, want)
		}
	}
	_, _, err := spec.Create(line{"replicas=x", "limit-cpu=y"}, host, []string{"alpine"})
	if err == nil || !strings.Contains(err.Error(), "--replicas") || !strings.Contains(err.Error(), "--limit-cpu") {
		t.Errorf("two faults: %v, want both named", err)
	}
}

func base() (*modelv1.ServiceSpec, *modelv1.TaskTemplate) {
	return &modelv1.ServiceSpec{Name: "web", Labels: map[string]string{"a": "1", "b": "2"},
			Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 2}}},
		&modelv1.TaskTemplate{
			Container: &modelv1.ContainerSpec{Image: "alpine", Env: []string{"A=1", "B=2"}, CapAdd: []string{"CAP_CHOWN"}, Hosts: []string{"192.0.2.1 db"},
				Mounts: []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: "/a", Target: "/x"}}},
			Placement: &modelv1.Placement{Constraints: []string{"node.role == manager"}}}
}

func TestUpdateChangesWhatIsNamedOnly(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		line line
		svc  func(*modelv1.ServiceSpec)
		tpl  func(*modelv1.TaskTemplate) // nil: the template stays
	}{
		{"replicas restart nothing", line{"replicas=5"},
			func(s *modelv1.ServiceSpec) { s.GetReplicated().Replicas = 5 }, nil},
		{"labels go and come", line{"label-rm=a", "label-add=c=3"},
			func(s *modelv1.ServiceSpec) { s.Labels = map[string]string{"b": "2", "c": "3"} }, nil},
		{"environment changes in place", line{"env-rm=B", "env-add=A=9", "env-add=C=3"}, nil,
			func(t *modelv1.TaskTemplate) { t.Container.Env = []string{"A=9", "C=3"} }},
		{"force counts up", line{"force"}, nil, func(t *modelv1.TaskTemplate) { t.Force = 1 }},
		{"image and arguments", line{"image=busybox", "args=sleep 10"}, nil,
			func(t *modelv1.TaskTemplate) {
				t.Container.Image, t.Container.Args = "busybox", []string{"sleep", "10"}
			}},
		{"a mount takes the place of another", line{"mount-add=type=tmpfs,target=/x"}, nil,
			func(t *modelv1.TaskTemplate) {
				t.Container.Mounts = []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_TMPFS, Target: "/x"}}
			}},
		{"a mount goes", line{"mount-rm=/x"}, nil, func(t *modelv1.TaskTemplate) { t.Container.Mounts = nil }},
		{"a constraint goes however it was spaced", line{"constraint-rm=node.role==manager", "constraint-add=node.id!=x"}, nil,
			func(t *modelv1.TaskTemplate) { t.Placement.Constraints = []string{"node.id!=x"} }},
		{"what is dropped is no longer added", line{"cap-drop=chown"}, nil,
			func(t *modelv1.TaskTemplate) { t.Container.CapAdd, t.Container.CapDrop = nil, []string{"CAP_CHOWN"} }},
		{"a host goes by its name", line{"host-rm=db"}, nil, func(t *modelv1.TaskTemplate) { t.Container.Hosts = nil }},
		{"what is the same already changes nothing", line{"image=alpine", "env-add=A=1"}, nil, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			inSvc, inTpl := base()
			svc, tpl, err := spec.Update(tt.line, host, inSvc, inTpl)
			if err != nil {
				t.Fatal(err)
			}
			wantSvc, wantTpl := base()
			if diff := cmp.Diff(wantSvc, inSvc, protocmp.Transform()) + cmp.Diff(wantTpl, inTpl, protocmp.Transform()); diff != "" {
				t.Errorf("what was read was changed:\n%s", diff)
			}
			if tt.svc != nil {
				tt.svc(wantSvc)
			}
			if diff := cmp.Diff(wantSvc, svc, protocmp.Transform()); diff != "" {
				t.Errorf("service differs (-want +got):\n%s", diff)
			}
			if tt.tpl == nil {
				wantTpl = nil
			} else {
				tt.tpl(wantTpl)
			}
			if diff := cmp.Diff(wantTpl, tpl, protocmp.Transform(), protocmp.IgnoreEmptyMessages()); diff != "" {
				t.Errorf("template differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAGlobalServiceHasNoReplicas(t *testing.T) {
	t.Parallel()
	global := &modelv1.ServiceSpec{Name: "g", Mode: &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}}
	if _, _, err := spec.Update(line{"replicas=2"}, host, global, &modelv1.TaskTemplate{}); err == nil {
		t.Error("update --replicas of a global service: no error")
	}
	if _, err := spec.Scale(global, 2); err == nil || say.Code(err) != say.Refused {
		t.Errorf("scale of a global service: %v", err)
	}
}

// FuzzMount holds the grammar of --mount to what must be true of every mount it
// accepts.
func FuzzMount(f *testing.F) {
	for _, s := range []string{"type=bind,source=/a,target=/b,readonly", "target=/x", `type=bind,"source=/a,b",target=/c`,
		"type=tmpfs,target=/t,tmpfs-size=1g,tmpfs-mode=0755", "type=volume,src=v,dst=/v,ro=false", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := spec.ParseMount(text)
		if err != nil {
			return
		}
		if !strings.HasPrefix(m.Target, "/") {
			t.Errorf("%q: target %q is not absolute", text, m.Target)
		}
		if m.Type == modelv1.MountType_MOUNT_TYPE_BIND && !strings.HasPrefix(m.Source, "/") {
			t.Errorf("%q: bind source %q is not absolute", text, m.Source)
		}
		if m.Type == modelv1.MountType_MOUNT_TYPE_UNSPECIFIED || m.TmpfsSize < 0 {
			t.Errorf("%q: %v", text, m)
		}
	})
}

func TestAnUpdateHasNoDefaults(t *testing.T) {
	t.Parallel()
	for _, f := range spec.UpdateFlags() {
		if d, ok := f.(cli.DocGenerationFlag); ok && strings.Contains(d.GetUsage(), "default") {
			t.Errorf("%v: %q; what an update does not name stays as it is", f.Names(), d.GetUsage())
		}
	}
}
