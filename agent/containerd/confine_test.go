package containerd_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/agent/exec"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// containerPID returns a process of the task's container, by its cgroup.
func (s *stand) containerPID(spec exec.Spec) int {
	s.t.Helper()
	for _, file := range s.groupFiles(spec, "cgroup.procs") {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(string(data), "\n")
		if pid, err := strconv.Atoi(first); err == nil {
			return pid
		}
	}
	s.t.Fatalf("no process of task %s in its cgroup", spec.Task)
	return 0
}

// groupFiles returns where a file of the task's cgroup may be: in any hierarchy
// of v1, or in the one of v2.
func (s *stand) groupFiles(spec exec.Spec, file string) []string {
	group := filepath.Join(s.CgroupParent, spec.Task.String(), file)
	found, err := filepath.Glob("/sys/fs/cgroup/*" + group)
	s.must(err)
	return append(found, "/sys/fs/cgroup"+group)
}

// group reads a file of the task's cgroup.
func (s *stand) group(spec exec.Spec, files ...string) string {
	s.t.Helper()
	for _, file := range files {
		for _, path := range s.groupFiles(spec, file) {
			if data, err := os.ReadFile(path); err == nil {
				return strings.TrimSpace(string(data))
			}
		}
	}
	s.t.Fatalf("the cgroup of task %s has none of %q", spec.Task, files)
	return ""
}

func TestAContainerIsConfined(t *testing.T) {
	s := newStand(t)
	spec, _ := s.start(shell("sleep 60"))
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.containerPID(spec)))
	s.must(err)
	for _, want := range []string{
		"Seccomp:\t2", "NoNewPrivs:\t1",
		// CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP
		// NET_BIND_SERVICE NET_RAW SYS_CHROOT SETFCAP
		"CapEff:\t00000000800425fb", "CapBnd:\t00000000800425fb", "CapAmb:\t0000000000000000", "CapInh:\t0000000000000000",
	} {
		if !strings.Contains(string(status), want+"\n") {
			t.Errorf("status lacks %q:\n%s", want, status)
		}
	}
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", s.containerPID(spec)))
	if err != nil || strings.TrimSpace(string(score)) != "0" {
		t.Errorf("oom_score_adj %q, %v; want 0", score, err)
	}
}

func TestLimitsAreInTheCgroup(t *testing.T) {
	s := newStand(t)
	tmpl := shell("sleep 60")
	tmpl.Limits = &modelv1.Limits{NanoCpus: 250e6, MemoryBytes: 64 << 20, Pids: 20}
	spec, _ := s.start(tmpl)
	if got := s.group(spec, "memory.limit_in_bytes", "memory.max"); got != "67108864" {
		t.Errorf("memory limit %q, want 67108864", got)
	}
	if got := s.group(spec, "cpu.cfs_quota_us", "cpu.max"); got != "25000" && got != "25000 100000" {
		t.Errorf("cpu limit %q, want 25000 of 100000", got)
	}
	if got := s.group(spec, "pids.max"); got != "20" {
		t.Errorf("pids limit %q, want 20", got)
	}
}

func TestAContainerThatUsesTooMuchMemoryIsKilledAndSaysSo(t *testing.T) {
	s := newStand(t)
	// The shell keeps what it reads, and doubles it.
	tmpl := shell("x=0123456789abcdef; while :; do x=$x$x; done")
	tmpl.Limits = &modelv1.Limits{MemoryBytes: 16 << 20}
	spec, c := s.start(tmpl)
	end, err := c.Wait(s.ctx)
	if err != nil || end.Code != 137 || !end.OOM {
		t.Errorf("ended %+v, %v; want code 137, out of memory", end, err)
	}
	if l := s.listed(s.newRuntime(s.cluster, s.node), spec); l.Exit == nil || !l.Exit.OOM {
		t.Errorf("listed %+v, want out of memory", l)
	}
}

func TestATemplateIsObeyed(t *testing.T) {
	s := newStand(t)
	bound := filepath.Join(s.Dir, "bound")
	s.must(os.WriteFile(bound, []byte("from the host\n"), 0o644))
	// Two pipes would come out in whatever order.
	tmpl := shell(`exec 2>&1; id; pwd; hostname; cat /etc/hostname; echo "$FROM $GREETING"; cat /bound; grep fence /etc/hosts
touch /scratch/x && echo scratch is writable; touch /root/x || echo root is read-only; touch /bound || echo bound is read-only
grep -q . /etc/resolv.conf && echo resolves; ulimit -n; ulimit -c; [ -t 0 ] || echo no terminal`)
	c := tmpl.Container
	c.User, c.Groups, c.Dir, c.Hostname, c.ReadOnly = "app", []string{"more"}, "/tmp", "{{.Service.Name}}-{{.Task.Slot}}", true
	c.Env, c.Hosts = []string{"GREETING=hello {{.Task.Slot}}", "FROM=service"}, []string{"192.0.2.1 fence", "post:192.0.2.2"}
	c.Ulimits = []*modelv1.Ulimit{{Name: "nofile", Soft: 99, Hard: 100}, {Name: "core"}}
	c.Mounts = []*modelv1.Mount{
		{Type: modelv1.MountType_MOUNT_TYPE_TMPFS, Target: "/scratch", TmpfsSize: 1 << 20},
		{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: bound, Target: "/bound", ReadOnly: true},
	}
	end, printed := s.run(tmpl)
	for _, want := range []string{
		"uid=1000(app) gid=2000(crew) groups=", "3000(extra)", "4000(more)", "\n/tmp\n", "\nweb-1\nweb-1\n",
		"service hello 1\n", "from the host\n", "192.0.2.1\tfence\n", "scratch is writable\n", "root is read-only\n",
		"bound is read-only\n", "resolves\n", "\n99\n0\n", "no terminal\n",
	} {
		if !strings.Contains(printed, want) {
			t.Errorf("it did not print %q (exit %d):\n%s", want, end.Code, printed)
		}
	}
}

func TestATerminalIsGivenAndLogged(t *testing.T) {
	s := newStand(t)
	tmpl := shell("[ -t 1 ] && echo a terminal; exit 4")
	tmpl.Container.Tty = true
	spec, c := s.start(tmpl)
	end, err := c.Wait(s.ctx)
	if err != nil || end.Code != 4 {
		t.Fatalf("ended %+v, %v; want code 4", end, err)
	}
	s.eventually("its output is in the log", func() bool { return strings.Contains(s.printed(spec), "a terminal") })
}

func TestAContainerIsStoppedByItsOwnSignal(t *testing.T) {
	s := newStand(t)
	tmpl := shell("trap 'exit 11' USR1; trap '' TERM; echo up; while :; do sleep 0.02; done")
	tmpl.Container.StopSignal = "SIGUSR1"
	spec, c := s.start(tmpl)
	s.eventually("it is up", func() bool { return strings.Contains(s.printed(spec), "up") })
	s.must(c.Shutdown(s.ctx))
	if end, err := c.Wait(s.ctx); err != nil || end.Code != 11 {
		t.Errorf("ended %+v, %v; want code 11", end, err)
	}
}

func TestAContainerThatDoesNotStopIsKilledAfterItsGrace(t *testing.T) {
	s := newStand(t)
	tmpl := shell("trap '' TERM; echo up; while :; do sleep 0.02; done")
	tmpl.Container.StopGracePeriod = int64(300 * time.Millisecond)
	spec, c := s.start(tmpl)
	s.eventually("it is up", func() bool { return strings.Contains(s.printed(spec), "up") })
	begin := time.Now()
	s.must(c.Shutdown(s.ctx))
	if took := time.Since(begin); took < 300*time.Millisecond || took > 5*time.Second {
		t.Errorf("shutdown took %v, want its grace of 300ms and little more", took)
	}
	if end, err := c.Wait(s.ctx); err != nil || end.Code != 137 || end.OOM {
		t.Errorf("ended %+v, %v; want code 137, not out of memory", end, err)
	}
}

func TestWhatCannotRunIsRejectedInWords(t *testing.T) {
	s := newStand(t)
	for name, tt := range map[string]struct {
		change func(*modelv1.ContainerSpec)
		words  string
	}{
		"a command that is not in the image": {func(c *modelv1.ContainerSpec) { c.Command = []string{"nonesuch"} }, `exec: "nonesuch": executable file not found`},
		"a mount whose source is missing": {func(c *modelv1.ContainerSpec) {
			c.Mounts = []*modelv1.Mount{{Type: modelv1.MountType_MOUNT_TYPE_BIND, Source: "/nonesuch", Target: "/x"}}
		}, "mount at \"/x\": source on this node: stat /nonesuch"},
		"a user the image does not know":   {func(c *modelv1.ContainerSpec) { c.User = "nobody" }, `user "nobody"`},
		"a capability that does not exist": {func(c *modelv1.ContainerSpec) { c.CapAdd = []string{"FLY"} }, `"FLY" is not a capability`},
		"a setting of the host's network":  {func(c *modelv1.ContainerSpec) { c.Sysctls = map[string]string{"net.ipv4.ip_forward": "1"} }, "shares the host's network"},
	} {
		t.Run(name, func(t *testing.T) {
			tmpl := shell("true")
			tt.change(tmpl.Container)
			spec := s.spec(tmpl)
			c := s.runtime.Task(spec)
			err := c.Prepare(s.ctx)
			if err == nil {
				err = c.Start(s.ctx)
			} else if _, serr := os.Stat(filepath.Join(s.Dir, "agent", "tasks", spec.Task.String())); serr == nil {
				t.Error("its directory is left, and no container by which it would be found")
			}
			if !errors.Is(err, exec.ErrRejected) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("%v; want it rejected with %q", err, tt.words)
			}
			s.must(c.Remove(s.ctx))
		})
	}
}

// TestWhatACreationThatWasCutShortLeftIsFoundAndRemoved: there is no container
// by which a sweep would find it.
func TestWhatACreationThatWasCutShortLeftIsFoundAndRemoved(t *testing.T) {
	s := newStand(t)
	spec := s.spec(shell("true"))
	dir := filepath.Join(s.Dir, "agent", "tasks", spec.Task.String())
	s.must(os.Mkdir(dir, 0o700))
	s.must(os.WriteFile(filepath.Join(dir, "hostname"), nil, 0o644))
	if l := s.listed(s.runtime, spec); l.Started || l.Running || l.CreatedIndex != 0 {
		t.Errorf("it is listed %+v, want it never started", l)
	}
	s.must(s.runtime.Task(exec.Spec{Task: spec.Task}).Remove(s.ctx))
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("its directory: %v, want it removed", err)
	}
}
