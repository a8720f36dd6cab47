//go:build lab

package deb

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skep-project/skep/integration/stage"
	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	os.Exit(m.Run())
}

// TestThePackageFromInstallToPurge lives the package's life on a host.
func TestThePackageFromInstallToPurge(t *testing.T) {
	first, again, second := packages(t)
	same(t, first, again)
	s := stage.Bare(t, "d1")
	furnish(s, map[string]string{"first": first, "second": second})
	for _, story := range []struct {
		name string
		tell func(*stage.Stage)
	}{
		{"installing starts nothing", install},
		{"what is installed can be read and used", use},
		{"the unit starts a swarm", serve},
		{"an upgrade leaves containers running", upgrade},
		{"removing ends containers and keeps the node", remove},
		{"installing again brings the node back", comeBack},
		{"purging leaves nothing", purge},
	} {
		if !t.Run(story.name, func(t *testing.T) {
			part := *s
			part.T = t
			story.tell(&part)
		}) {
			return
		}
	}
}

func same(t *testing.T, first, again string) {
	t.Helper()
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Errorf("two packages of the same programs differ: %s, %s", first, again)
	}
}

// furnish boots d1 with the packages on it, as /run/skep-lab/host/NAME.deb.
func furnish(s *stage.Stage, debs map[string]string) {
	s.Helper()
	h := s.Hosts["d1"]
	for name, from := range debs {
		if _, err := command(s.Ctx, nil, "cp", from, filepath.Join(h.Dir(), name+".deb")); err != nil {
			s.Fatal(err)
		}
	}
	for _, from := range []string{"/var/lib/dpkg", "testdata/systemctl", "testdata/host.sh"} {
		if _, err := command(s.Ctx, nil, "cp", "-a", from, h.Dir()); err != nil {
			s.Fatal(err)
		}
	}
	if err := h.Boot(s.Ctx); err != nil {
		s.Fatal(err)
	}
	s.Must("d1", "sh /run/skep-lab/host/host.sh")
	s.Ends("d1", "touch /nobody", 1, "Read-only file system")
	s.Ends("d1", "command -v ctl", 127)
}

func install(s *stage.Stage) {
	s.Must("d1", "dpkg -i /run/skep-lab/host/first.deb", "To start it now:\n    systemctl start skep\n")
	s.Must("d1", "stat -c '%A %U %n' /usr/lib/skep/* /usr/lib/systemd/system/skep.service /etc/default/skep /var/lib/skep",
		"-rwxr-xr-x root /usr/lib/skep/containerd\n",
		"-rwxr-xr-x root /usr/lib/skep/containerd-shim-runc-v2\n",
		"-rwxr-xr-x root /usr/lib/skep/ctl\n",
		"-rwxr-xr-x root /usr/lib/skep/runc\n",
		"-rw-r--r-- root /usr/lib/systemd/system/skep.service\n",
		"-rw-r--r-- root /etc/default/skep\n",
		"drwx------ root /var/lib/skep\n")
	if changed := s.Must("d1", "dpkg --verify skep"); changed != "" {
		s.Errorf("installed files are not the package's:\n%s", changed)
	}
	s.Must("d1", "readlink /etc/systemd/system/multi-user.target.wants/skep.service", "/lib/systemd/system/skep.service\n")
	s.Ends("d1", "systemctl is-active skep || exit 1", 1)
	nothingRuns(s)
}

// nothingRuns sees to it that no program of the package does.
func nothingRuns(s *stage.Stage) {
	s.Helper()
	s.Ends("d1", "ls -l /proc/*/exe 2>/dev/null | grep /usr/lib/skep/", 1)
}

func use(s *stage.Stage) {
	version := strings.TrimSpace(s.Must("d1", "ctl version --format '{{.Client.Version}}'"))
	if version == "" || version == later {
		s.Errorf("ctl says that it is version %q", version)
	}
	s.Must("d1", "systemd-analyze verify /usr/lib/systemd/system/skep.service")
	s.Must("d1", "for f in /usr/share/man/man[18]/ctl*.gz; do zcat $f | mandoc -T ascii >/tmp/page && [ $(wc -l </tmp/page) -gt 9 ] || { echo $f; exit 1; }; done")
	s.Must("d1", "zcat /usr/share/man/man8/ctl-daemon.8.gz | mandoc -T ascii | col -b", "--state-dir", version)
	s.Must("d1", "zcat /usr/share/man/man1/ctl-service-create.1.gz | mandoc -T ascii | col -b", "--replicas")
	s.Must("d1", "zcat /usr/share/doc/skep/changelog.gz", "# Changelog")
	s.Must("d1", "zcat /usr/share/doc/skep/changelog.Debian.gz", "skep (")
	s.Must("d1", `bash -c '. /usr/share/bash-completion/completions/ctl; complete -p ctl'`, "-F _ctl ctl")
	s.Must("d1", `HOME=/tmp zsh -fc 'autoload -Uz compinit; compinit -u -D; autoload +X _ctl; print $_comps[ctl]; whence -w _ctl'`, "_ctl\n_ctl: function\n")
	s.Must("d1", `HOME=/tmp fish -c 'complete -C "ctl swarm in"'`, "init\t")
}

// listSleepers prints the processes of the containers that serve made.
const listSleepers = `grep -zlx '1[d]' /proc/[0-9]*/cmdline | tr '\n' ' '`

func sleepers(s *stage.Stage) string {
	s.Helper()
	return s.Must("d1", listSleepers)
}

func serve(s *stage.Stage) {
	s.Must("d1", "systemctl start skep")
	s.Until("d1", "ctl info", "Swarm: inactive")
	s.Must("d1", "ls -l /proc/$(cat /run/skep.main)/exe", "/usr/lib/skep/ctl\n")
	s.Must("d1", "ctl swarm init")
	s.Must("d1", "ctl service create --name idle --replicas 2 --stop-grace-period 1s --restart-delay 500ms --update-monitor 1s alpine sh -c 'trap \"exit 0\" TERM; sleep 1d & wait'", "Service converged")
	s.Must("d1", "ls -l /proc/*/exe 2>/dev/null", "/usr/lib/skep/containerd\n", "/usr/lib/skep/containerd-shim-runc-v2\n")
}

const tasks = "ctl service ps -q --no-trunc --filter desired-state=running idle | sort"

func upgrade(s *stage.Stage) {
	was, ran := s.Must("d1", tasks), sleepers(s)
	s.Must("d1", `sed -i 's/^SKEP_FLAGS=.*/SKEP_FLAGS="--log-level debug"/' /etc/default/skep`)
	s.Must("d1", "dpkg -i /run/skep-lab/host/second.deb", "Unpacking skep (99.0.0~rc1-1) over (")
	s.Until("d1", "ctl version --format '{{.Server.Version}}'", later)
	s.Must("d1", "tr '\\0' ' ' </proc/$(cat /run/skep.main)/cmdline", "/usr/bin/ctl daemon --log-level debug ")
	s.Until("d1", "ctl service ls", "2/2")
	if now := s.Must("d1", tasks); now != was {
		s.Errorf("tasks after the upgrade:\n%swant those from before it:\n%s", now, was)
	}
	if now := sleepers(s); now != ran || len(strings.Fields(ran)) != 2 {
		s.Errorf("containers after the upgrade are processes %q, want the two from before it, %q", now, ran)
	}
	// What it took up again is its own: it is told, and obeys.
	s.Must("d1", "ctl service scale idle=1", "Service converged")
	if now := strings.Fields(sleepers(s)); len(now) != 1 || !strings.Contains(ran, now[0]) {
		s.Errorf("one task is left in processes %q, want one of %q", now, ran)
	}
}

func remove(s *stage.Stage) {
	s.Must("d1", "dpkg -r skep", "its node is kept in /var/lib/skep")
	nothingRuns(s)
	if left := sleepers(s); left != "" {
		s.Errorf("containers still run as processes %q", left)
	}
	s.Ends("d1", "grep -E ' /(run|var/lib)/skep/' /proc/self/mounts", 1)
	s.Ends("d1", "ls -d /sys/fs/cgroup/skep /sys/fs/cgroup/*/skep 2>/dev/null", 2)
	s.Ends("d1", "command -v ctl", 127)
	s.Must("d1", "stat -c '%A %n' /var/lib/skep /var/lib/skep/keys/identity.json", "drwx------ /var/lib/skep\n", "-rw------- /var/lib/skep/keys/identity.json\n")
	s.Must("d1", "cat /etc/default/skep", `SKEP_FLAGS="--log-level debug"`)
	s.Must("d1", "tail -n 2 /run/systemctl.log", "stop skep.service\n")
}

func comeBack(s *stage.Stage) {
	s.Must("d1", "dpkg -i /run/skep-lab/host/second.deb", "To start it now:")
	s.Must("d1", "systemctl start skep")
	s.Until("d1", listSleepers, "/proc/")
	s.Until("d1", "ctl node ls", "Ready")
	if now := strings.Fields(sleepers(s)); len(now) != 1 {
		s.Errorf("containers run as processes %q, want one", now)
	}
}

func purge(s *stage.Stage) {
	s.Must("d1", "dpkg -P skep", "deleting this node: keys, certificate, swarm state, images and task logs in /var/lib/skep")
	nothingRuns(s)
	if left := s.Must("d1", `find /etc /var/lib /run/skep /run/containerd -xdev -name '*skep*' 2>/dev/null || true; find /run/over/usr/upper -type f -not -name systemctl`); left != "" {
		s.Errorf("left behind:\n%s", left)
	}
	s.Ends("d1", "dpkg-query -W skep", 1, "no packages found")
}
