package cli_test

import (
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/cli/clitest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const asViewer = modelv1.UserRole_USER_ROLE_VIEWER

// whole fails the test unless every line is one of text's.
func whole(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+text, "\n"+l+"\n") {
			t.Errorf("the line %q is missing in:\n%s", l, text)
		}
	}
}

func TestInfoFromElsewhereIsWhatAViewerMaySee(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Nodes[2].Node.Status.State = modelv1.NodeState_NODE_STATE_DOWN
	s.Nodes[2].Manager.Reachability = controlv1.ManagerStatus_REACHABILITY_UNREACHABLE
	s.Nodes[2].Manager.UnreachableSince = clitest.Ago(3 * time.Minute)
	s.Nodes[3].Node.Status = nil
	d := s.Desk(t, asViewer)
	r := d.Run("--context", "far", "info")
	check(t, r, 0, "User: alice (viewer) until 20")
	whole(t, r.Out, "Context: far", "Manager: tcp://"+d.Address, "Name: dev01", "Server Version: v0.1.0", "Runtime: containerd 2.3.7, runc 1.5.2",
		"CPUs: 4", "Swarm: active", " NodeID: aafxassx3u1qhkhg9y96rbf1b", " Is Manager: true", " Managers: 3", "  Leader: dev01 (192.0.2.1:2377)",
		" Nodes: 4", "  Ready: 2", "  Down: 1", "  Unknown: 1", " Node Address: 192.0.2.1", " Unreachable Managers:",
		"  dev03 (192.0.2.3:2377) since 2026-03-01 11:57:00 +0000 UTC",
		"Not Known From Here: state directory, containers, certificate and raft timing: run ctl info on the node itself")
	for _, absent := range []string{"State Directory: ", "Containers: ", "Election Tick", "Error"} {
		if strings.Contains(r.Out, absent) {
			t.Errorf("it tells of %q:\n%s", absent, r.Out)
		}
	}
	if strings.Contains(strings.Join(s.Calls, " "), "Info") {
		t.Errorf("calls %v: the node's own socket was asked", s.Calls)
	}
}

func TestInfoFromElsewhereNamesAHostWithoutAContextInUse(t *testing.T) {
	t.Parallel()
	d := clitest.Three().Desk(t, asViewer)
	check(t, d.Run("--host", "tcp://"+d.Address, "info"), 2, "", "there is no context")
	check(t, d.Run("context", "use", "far"), 0, "far\n")
	check(t, d.Run("--host", "tcp://"+d.Address, "info", "--format", "{{.Context.User}} {{.Swarm.Leader}} {{.Swarm.States.Ready}}"), 0, "alice dev01 (192.0.2.1:2377) 4\n")
	r := d.Run("info", "--format", "json")
	check(t, r, 0, `"Context":{"Name":"far","User":"alice","Role":"viewer"`)
	if strings.Contains(r.Out, `"Containers"`) || strings.Contains(r.Out, `"StateDir"`) {
		t.Errorf("it tells what only the node knows: %s", r.Out)
	}
}

func TestInfoFromElsewhereWithoutAQuorumIsTheLastStateKnown(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	d := s.Desk(t, asViewer)
	s.Edit(func(s *clitest.Swarm) { s.Cut = true })
	r := d.Run("--context", "far", "info")
	check(t, r, 0, " Error: tcp://"+d.Address+" does not hear enough of the other managers\n", "stale: the last state this manager knows; it lost the others about a minute ago")
	whole(t, r.Out, " Nodes: 4", "  Ready: 4")
}

func TestVersionFromElsewhereIsTheManagersThatAnswered(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	d := s.Desk(t, asViewer)
	r := d.Run("--context", "far", "version")
	check(t, r, 0, "Server:\n Name:                  dev01\n Version:               v0.1.0\n Runtime:               containerd 2.3.7, runc 1.5.2\n")
	check(t, d.Run("--context", "far", "version", "--format", "{{.Server.Version}}"), 0, "v0.1.0\n")
	check(t, d.Run("--host", "tcp://127.0.0.1:1", "version"), 0, "Client:\n", "server: ")
}

func TestAJobWhoseClockIsWrongIsToldSoAndChangesNothing(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Ahead = 3 * time.Hour
	d := s.Desk(t, modelv1.UserRole_USER_ROLE_ROTATOR)
	for _, args := range [][]string{{"swarm", "ca", "--rotate"}, {"swarm", "unlock-key", "--rotate", "-q"}, {"swarm", "join-token", "--rotate", "-q", "worker"}} {
		r := d.Run(append([]string{"--context", "far"}, args...)...)
		check(t, r, 3, "", "no manager of the swarm answers: tcp://"+d.Address+": certificate of ", " expired at ", " and the clock here says "+time.Now().UTC().Format("2006-01-02T"))
	}
	if len(s.Calls) > 0 {
		t.Errorf("a manager was asked for %v", s.Calls)
	}
}

func TestWhatAViewerMayNotIsRefusedInTheWordsOfCommands(t *testing.T) {
	t.Parallel()
	d := clitest.Three().AddPing().Desk(t, asViewer)
	check(t, d.Run("--context", "far", "service", "scale", "-d", "ping=5"), 1, "",
		"ctl: to change a service takes the role operator, and user alice is a viewer\n",
		"ctl: hint: ask an admin for a user who has it: ctl user create NAME --role operator -o FILE\n")
}
