//go:build lab

package services

import (
	"encoding/base64"
	"strings"
)

// logIn leaves what "docker login" would, on m1.
func logIn(s *swarm, password string) {
	s.Helper()
	auth := base64.StdEncoding.EncodeToString([]byte("bee:" + password))
	s.Must("m1", `mkdir -p -m 700 /tmp/docker; echo '{"auths":{"registry.lab:5001":{"auth":"`+auth+`"}}}' >/tmp/docker/config.json`)
}

func private(s *swarm) {
	const (
		ctl   = "DOCKER_CONFIG=/tmp/docker ctl "
		image = "registry.lab:5001/hive/app:1"
		spec  = "--restart-delay 500ms --update-monitor 500ms --stop-grace-period 1s --constraint node.role==worker --replicas-max-per-node 1 " + image + " sleep 1d"
		ids   = `ctl service ps -q --no-trunc --filter desired-state=running priv`
	)
	if err := s.Lab.Private(s.Ctx, "bee", "honeydew", "hive/app:1"); err != nil {
		s.Fatal(err)
	}
	for name := range s.Hosts {
		s.Must(name, `d=/etc/containerd/certs.d/registry.lab:5001; mkdir -p $d; echo 'server = "http://registry.lab:5001"' >$d/hosts.toml`)
	}

	s.Must("m1", ctl+`service create -d --name priv `+spec)
	s.Until("m1", `ctl service ps priv --no-trunc`, `image registry.lab:5001/hive/app:1: registry registry.lab:5001 refuses access without credentials: no such repository, or it is private; `+
		`log in with "docker login registry.lab:5001", then "ctl service update --with-registry-auth SERVICE"`)
	logIn(s, "waxwaxwax")
	s.Must("m1", ctl+`service update -d --with-registry-auth priv`)
	s.Until("m1", `ctl service ps priv --no-trunc`, `registry registry.lab:5001 refuses user bee: the password is wrong or has expired`)
	logIn(s, "honeydew")
	s.Must("m1", ctl+`service update --with-registry-auth priv`, "Service converged")

	was := s.Must("m1", ids)
	s.Must("m1", ctl+`service update --with-registry-auth --label-add fresh=yes priv`)
	s.Must("m1", `ctl service update --update-parallelism 2 priv`)
	if now := s.Must("m1", ids); now != was || strings.Count(now, "\n") != 1 {
		s.Errorf("tasks %q run after fresh credentials, want %q as before", now, was)
	}
	s.Must("m1", `ctl service inspect priv --format '{{.Revision.Target}}'`, "1\n")
	s.Must("m1", `ctl service scale priv=2`, "Service converged") // the other worker pulls with what was kept

	logIn(s, "waxwaxwax")
	s.Must("m1", ctl+`service update --with-registry-auth --force priv`, "Service converged") // the image is there

	auth := base64.StdEncoding.EncodeToString([]byte("bee:honeydew"))
	for name, h := range s.Hosts {
		s.Ends(name, `grep -rlE 'honeydew|waxwaxwax|`+auth+`' /var/lib/skep /run/skep --exclude-dir=overlayfs --exclude-dir=rootfs 2>/dev/null`, 1)
		if log := h.LogTail(1 << 20); strings.Contains(log, "honeydew") || strings.Contains(log, "waxwaxwax") {
			s.Errorf("the log of %s holds a password", name)
		}
	}
	for _, line := range []string{`service inspect priv`, `service inspect --pretty priv`, `service ls --format json`, `service ps --no-trunc --format json priv`} {
		if got := s.Must("m1", "ctl "+line); strings.Contains(got, "honeydew") || strings.Contains(got, "waxwaxwax") {
			s.Errorf("ctl %s shows a password", line)
		}
	}
	s.Must("m1", `ctl service rm priv`)
}
