package walkthrough

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// processes names every process of a program on a host by its pid and start
// time, so that a restarted one cannot pass for the same. Programs in
// containers are seen, because a container's processes are its host's too.
func (s *Stage) processes(ctx context.Context, host, program string) (string, error) {
	pids, err := s.hosts[host].Pids(ctx, program)
	if err != nil {
		return "", err
	}
	slices.Sort(pids)
	var all []string
	for _, pid := range pids {
		r, err := s.hosts[host].Exec(ctx, "busybox", "awk", `{print $1 "@" $22}`, fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return "", err
		}
		all = append(all, strings.TrimSpace(r.Stdout))
	}
	return strings.Join(all, " "), nil
}

// note remembers a host's processes of a program, of which there must be some.
func (s *Stage) note(ctx context.Context, host, program string) error {
	got, err := s.processes(ctx, host, program)
	if err != nil {
		return err
	}
	if got == "" {
		return fmt.Errorf("no container process %s on %s", program, host)
	}
	s.containers[host] = got
	return nil
}

// untouched checks that a host's containers are the very processes noted.
func (s *Stage) untouched(ctx context.Context, host, program string) error {
	got, err := s.processes(ctx, host, program)
	if err != nil {
		return err
	}
	if got != s.containers[host] {
		return fmt.Errorf("containers of %s were processes %s and are now %s", host, s.containers[host], got)
	}
	s.tell.Event("the containers of " + host + " are the same processes as before: " + got)
	return nil
}
