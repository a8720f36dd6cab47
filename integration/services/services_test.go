//go:build lab

package services

import (
	"strings"
	"testing"

	"github.com/skep-project/skep/integration/stage"
)

func TestServices(t *testing.T) {
	s := raise(t)
	for _, story := range []struct {
		name string
		tell func(*swarm)
	}{
		{"a container is what was asked for, and leaves nothing", container},
		{"what no node can run is refused at once", impossible},
		{"a name is free when its service is removed", again},
		{"what ends for good ends the wait", ends},
		{"what waits says why, and is placed when something helps", waits},
		{"a private image is pulled with what its user logged in with", private},
		{"an update that fails is paused, or rolled back", updates},
	} {
		if !t.Run(story.name, func(t *testing.T) { story.tell(&swarm{&stage.Stage{T: t, Ctx: s.Ctx, Lab: s.Lab, Hosts: s.Hosts}}) }) {
			break // the next may find what this one left
		}
	}
}

func container(s *swarm) {
	s.Must("m1", `mkdir -p /tmp/src; echo A=file >/tmp/env; echo B=two words >>/tmp/env`)
	s.Must("m1", `ctl service create -q --update-monitor 1s --name full --constraint node.role==manager --env-file /tmp/env -e A=flag `+
		`-e 'T={{.Service.Name}}/{{.Task.Slot}}/{{.Node.Hostname}}' --user nobody --group 777 --workdir /var --hostname '{{.Service.Name}}-{{.Task.Slot}}' `+
		`--mount type=bind,source=/tmp/src,target=/data,readonly --mount type=tmpfs,target=/scratch,tmpfs-size=1m --read-only `+
		`--cap-add NET_ADMIN --cap-drop CHOWN --limit-cpu 0.5 --limit-memory 64M --limit-pids 20 --ulimit nofile=100:200 --oom-score-adj 100 `+
		`--sysctl kernel.msgmax=9000 --host x:1.2.3.4 --stop-signal SIGUSR1 --stop-grace-period 20s `+
		`--entrypoint 'sh -c' alpine 'trap "exit 3" USR1; sleep 1d & wait'`)
	id := strings.TrimSpace(s.Must("m1", `ctl service ps full -q --no-trunc`))
	got := s.Must("m1", `p=$(cat /run/skep/containerd/state/io.containerd.runtime.v2.task/skep/`+id+`/init.pid); cd /proc/$p; tr '\0' '\n' <environ; cat status limits mounts oom_score_adj; readlink cwd; `+
		`cat root/etc/hostname root/etc/hosts; nsenter -t $p -i -m cat /proc/sys/kernel/msgmax`)
	for _, want := range []string{
		"A=flag\n", "B=two words\n", "T=full/1/m1\n", "HOSTNAME=full-1\n", "Uid:\t65534", "Groups:\t777 65534", "CapBnd:\t00000000800435fa",
		" /data ", " /scratch tmpfs rw,nosuid,nodev,noexec,relatime,size=1024k", "overlay / overlay ro,", "Max open files            100                  200",
		"\n100\n", "/var\n", "1.2.3.4\tx", "9000\n",
	} {
		if !strings.Contains(got, want) {
			s.Errorf("the container lacks %q", want)
		}
	}
	s.Must("m1", `d=$(find /sys/fs/cgroup -type d -name `+id+` | head -1); test -n "$d"`)
	s.Must("m1", `ctl service rm full`, "full")
	s.Until("m1", `ctl service ls -q`, "")
	s.Until("m1", `ctr --address /run/skep/containerd/containerd.sock -n skep containers ls -q 2>/dev/null`, "")
	s.Until("m1", `find /sys/fs/cgroup -type d -name `+id+`; grep -l `+id+` /proc/mounts; ls /var/lib/skep/agent/tasks`, "")
}

func impossible(s *swarm) {
	const create = "ctl service create --name no "
	s.Ends("m1", create+"--init alpine", 1, "an init process", "leave --init away")
	s.Ends("m1", create+"--mount type=volume,source=a,target=/a alpine", 1, "volumes are not supported")
	s.Ends("m1", create+"--cap-add BOGUS --sysctl net.core.somaxconn=1 --hostname '{{.No}}' alpine", 1,
		`capability to add "CAP_BOGUS"`, "sysctl net.core.somaxconn", `hostname "{{.No}}"`)
	s.Ends("m1", create+"--constraint node.role=manager alpine", 1, "node.role=manager")
	s.Must("m1", "ctl service ls -q")
}

func again(s *swarm) {
	s.Must("m1", "ctl service create -q --update-monitor 1s --name web alpine sleep 1d")
	s.Ends("m1", "ctl service create --name web alpine sleep 1d", 1, "service web already exists")
	s.Must("m1", "ctl service rm web && ctl service create -q --update-monitor 1s --name web alpine sleep 2d")
	s.Must("m1", "ctl service inspect web --format '{{json .Spec.TaskTemplate.ContainerSpec.Args}}'", `["sleep","2d"]`)
	s.Must("m1", "ctl service rm web")
}

func ends(s *swarm) {
	s.Ends("m1", `ctl service create --name one --restart-condition none alpine sh -c "exit 4"`, 1, "task: non-zero exit (4)", "ctl service ps one --no-trunc")
	s.Ends("m1", `ctl service create --name two --restart-max-attempts 1 --restart-delay 100ms alpine:nope`, 1, "no such image alpine:nope")
	s.Ends("m1", `ctl service create --name oom --restart-condition none --limit-memory 16M alpine sh -c "head -c 200m /dev/zero | tail"`, 1, "(137): out of memory")
	s.Ends("m1", `ctl service create --name bind --restart-max-attempts 1 --restart-delay 100ms --mount type=bind,source=/nosuch,target=/x alpine true`, 1, "source on this node: stat /nosuch")
	s.Must("m1", `ctl service create --name job --update-monitor 1s --restart-condition on-failure alpine true`, "1/1: complete", "Service converged")
	s.Must("m1", `ctl service ps two`, ` \_ two.1`, `"no such image alpine:nope`)
	if got := s.Must("m1", `ctl service ps -q --filter desired-state=running one two job`); got != "" {
		s.Errorf("%q should run; all have ended", got)
	}
	s.Must("m1", `ctl service rm one two oom bind job`)
}

func waits(s *swarm) {
	s.Ends("m1", `ctl service create --name pend --timeout 1s --stop-grace-period 1s --constraint node.labels.zone==a alpine sleep 1d`, 1,
		"gave up after 1s waiting for service pend to converge", "3 do not satisfy node.labels.zone==a")
	s.Must("m1", `ctl node update --label-add zone=a w1`)
	s.Until("m1", `ctl service ps pend --format '{{.Node}} {{.CurrentState}}'`, "w1 Running")
	s.Must("m1", `ctl node update --label-rm zone w1`)
	s.Until("m1", `ctl service ps pend --no-trunc`, "do not satisfy node.labels.zone==a")
	s.Must("m1", `ctl node update --label-add zone=a --availability drain w2`)
	s.Must("m1", `ctl service ps pend --no-trunc`, "Pending", "is drained")
	s.Must("m1", `ctl node update --availability active w2`)
	s.Until("m1", `ctl service ps pend --format '{{.Node}} {{.CurrentState}}'`, "w2 Running")
	s.Must("m1", `ctl service rm pend`)
}

func updates(s *swarm) {
	s.Must("m1", `ctl service create -q --name u --replicas 3 --update-monitor 500ms --rollback-monitor 500ms --stop-grace-period 1s alpine sleep 1d`)
	s.Must("m1", `ctl service update --env-add A=1 --args "sleep 2d" u`, "overall progress: 3 out of 3 tasks", "Service converged")
	s.Ends("m1", `ctl service update --image alpine:nope u`, 1, "service update paused", "was rejected")
	s.Must("m1", `ctl service ls --format '{{.Replicas}}'`, "2/3")
	s.Must("m1", `ctl service rollback -q u`)
	s.Must("m1", `ctl service inspect u --format '{{json .Spec.TaskTemplate.ContainerSpec}}'`, `"Image":"docker.io/library/alpine:latest"`, `"Env":["A=1"]`)
	s.Ends("m1", `ctl service update --image alpine:nope --update-failure-action rollback --update-order start-first u`, 1, "service update rolled back")
	s.Until("m1", `ctl service ls --format '{{.Name}} {{.Replicas}}'`, "u 3/3")
	s.Must("m1", `ctl service update -d --force u && ctl service rm u`)
	s.Until("m1", `ctl service ls -q`, "")
	for name := range s.Hosts { // of all stories
		s.Until(name, `ls /var/lib/skep/agent/tasks; ctr --address /run/skep/containerd/containerd.sock -n skep containers ls -q 2>/dev/null`, "")
	}
}
