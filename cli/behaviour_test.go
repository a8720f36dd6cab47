package cli_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, r clitest.Result, code int, out string, speech ...string) {
	t.Helper()
	if r.Code != code || !strings.Contains(r.Out, out) {
		t.Errorf("exit %d, output %q; want %d and %q; speech:\n%s", r.Code, r.Out, code, out, r.Err)
	}
	for _, s := range speech {
		if !strings.Contains(r.Err, s) {
			t.Errorf("speech %q, want %q in it", r.Err, s)
		}
	}
}

func TestAnUnknownOutcomeIsAskedForAgain(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Fail["CreateService"] = []error{
		rpc.Refuse(rpc.Errorf(errdefs.ErrUnknown, "leadership was lost"), "", &rpcv1.Unknown{}),
		rpc.Errorf(errdefs.ErrUnavailable, "an election is on"),
	}
	check(t, clitest.Run(t, s, "service", "create", "--name", "web", "-d", "alpine"), 0, "\n")
	if len(s.Services) != 1 || len(s.Calls) != 3 {
		t.Errorf("%d services after calls %v, want 1 after 3", len(s.Services), s.Calls)
	}
}

func TestARefusalIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Fail["CreateService"] = []error{rpc.RefuseNoLeader([]string{"dev02 (192.0.2.2:2377)"}, 2, 1)}
	check(t, clitest.Run(t, s, "service", "create", "-d", "alpine"), 1, "",
		"ctl: The swarm does not have a leader. It's possible that too few managers are online. Make sure more than half of the managers are online.\n",
		"ctl: hint: unreachable managers: dev02 (192.0.2.2:2377); 1 of the 2 needed answer\n")
	if len(s.Calls) != 1 {
		t.Errorf("calls %v, want one", s.Calls)
	}
}

func TestAChangeThatMeetsAnotherIsMadeAnew(t *testing.T) {
	t.Parallel()
	s := clitest.Three().AddPing()
	s.Fail["UpdateService"] = []error{rpc.Errorf(errdefs.ErrAborted, "update out of sequence"), rpc.Errorf(errdefs.ErrAborted, "update out of sequence")}
	check(t, clitest.Run(t, s, "service", "scale", "-d", "ping=5"), 0, "ping scaled to 5\n")
	if got := s.Services[0].GetService().GetSpec().GetReplicated().GetReplicas(); got != 5 {
		t.Errorf("%d replicas, want 5", got)
	}
}

func TestSettingsThatMeetAnotherChangeAreSetAnew(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Cluster.Cluster.Spec.CertExpiry = int64(48 * time.Hour)
	s.Fail["UpdateCluster"] = []error{rpc.Errorf(errdefs.ErrAborted, "update out of sequence"), rpc.Errorf(errdefs.ErrAborted, "update out of sequence")}
	check(t, clitest.Run(t, s, "swarm", "update", "--dead-manager-removal", "10m"), 0, "Swarm updated.\n")
	spec := s.Cluster.GetCluster().GetSpec()
	if spec.GetDeadManagerRemoval() != int64(10*time.Minute) || spec.GetCertExpiry() != int64(48*time.Hour) {
		t.Errorf("settings %v, want the new one and the old one", spec)
	}
}

func TestWhyARoleWasTakenAwayIsShown(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Nodes[3].Node.RoleReason = "taken out of the managers, which had not heard it for 10m0s"
	check(t, clitest.Run(t, s, "node", "inspect", "--pretty", "dev10"), 0,
		"Role:                   worker (taken out of the managers, which had not heard it for 10m0s)\n")
	check(t, clitest.Run(t, s, "node", "inspect", "-f", "{{.RoleReason}}", "dev10"), 0, "taken out of the managers")
}

func TestTimeOverSaysWhatWasWaitedFor(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Idle = true
	r := clitest.Run(t, s, "service", "create", "--name", "web", "--replicas", "2", "--timeout", "1s", "alpine")
	check(t, r, 1, "\n", "ctl: gave up after 1s waiting for service web to converge: 0 of 2 tasks run\n",
		`ctl: hint: it goes on in the background; "ctl service ps web" shows how far it is`)
}

func TestAnInterruptLeavesTheWorkGoing(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	s := clitest.Three()
	s.Idle = true
	time.AfterFunc(0, func() {
		for { // the watch is on when the service is there
			waiting := false
			s.Edit(func(s *clitest.Swarm) { waiting = len(s.Calls) > 1 })
			if waiting {
				interrupt()
				return
			}
		}
	})
	r := clitest.RunIn(t, ctx, s, say.Streams{}, "service", "create", "--name", "web", "alpine")
	check(t, r, 1, "\n", "ctl: interrupted while waiting for service web to converge", "goes on in the background")
}

func TestPromotionWaitsForTheVote(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Learning = 3 // looks until the new manager has its vote
	check(t, clitest.Run(t, s, "node", "promote", "dev10"), 0, "Node dev10 promoted to a manager in the swarm.\n")
	if s.Learning != 0 {
		t.Errorf("it was promoted with %d looks to go", s.Learning)
	}
	s.Learning = 1 << 30
	check(t, clitest.Run(t, s, "node", "demote", "dev10"), 0, "Manager dev10 demoted in the swarm.\n")
	r := clitest.Run(t, s, "node", "promote", "dev10", "--timeout", "1s")
	check(t, r, 1, "", "ctl: gave up after 1s waiting for node dev10 to become a manager\n",
		`ctl: hint: it goes on in the background; "ctl node ls" shows how far it is`)
	// Asked again, it is waited for again: that it is wished is not that it is so.
	check(t, clitest.Run(t, s, "node", "promote", "dev10", "--timeout", "1s"), 1, "", "ctl: gave up after 1s waiting for node dev10 to become a manager\n")
	check(t, clitest.Run(t, s, "node", "promote", "dev10", "--detach"), 0, "Node dev10 is being made a manager already.\n")
	if out := clitest.Run(t, s, "node", "ls").Out; !strings.Contains(out, "Learning") {
		t.Errorf("a manager that has no vote yet is listed as\n%s", out)
	}
	s.Learning = 2
	check(t, clitest.Run(t, s, "node", "promote", "dev10"), 0, "Node dev10 promoted to a manager in the swarm.\n")
	check(t, clitest.Run(t, s, "node", "promote", "dev10"), 0, "Node dev10 is already a manager.\n")
	check(t, clitest.Run(t, s, "node", "demote", "--detach", "dev10"), 0, "Manager dev10 is being made a worker.\n")
	check(t, clitest.Run(t, s, "node", "promote", "--detach", "dev10"), 0, "Node dev10 is being made a manager.\n")
}

// TestADemotionAtAManagerThatIsDemotedItself: what became of which node is said,
// and never only that this node is no manager.
func TestADemotionAtAManagerThatIsDemotedItself(t *testing.T) {
	t.Parallel()
	stranger := rpc.RefuseNotManager([]string{"192.0.2.2:2377"})
	lost := rpc.Refuse(rpc.Errorf(errdefs.ErrUnknown, "the connection broke"), "", &rpcv1.Unknown{})
	for _, tt := range []struct {
		name    string
		get     []error
		update  []error
		args    []string
		code    int
		out     string
		speech  []string
		updates int
	}{
		{"itself, by way of the leader", []error{stranger}, nil, []string{"demote", "dev01"}, 0, "Manager dev01 demoted in the swarm.\n", nil, 1},
		{"another, that was asked for before", []error{stranger}, nil, []string{"demote", "dev02"}, 1, "", []string{
			"ctl: whether node dev02 was demoted is not known here: this node is not a manager any more\n",
			"ctl: hint: \"ctl node ls\" shows it on a manager (they answer at 192.0.2.2:2377)\n"}, 1},
		{"another, behind itself", []error{stranger}, []error{nil, stranger}, []string{"demote", "dev01", "dev02"}, 1, "Manager dev01 demoted in the swarm.\n", []string{
			"ctl: node dev02 was not demoted: this node is not a manager\n",
			"ctl: hint: type \"ctl node demote dev02\" on a manager (they answer at 192.0.2.2:2377)\n"}, 2},
		{"another, with the answer lost", nil, []error{lost, stranger}, []string{"demote", "dev02"}, 1, "", []string{
			"ctl: whether node dev02 was demoted is not known here: this node is not a manager any more\n"}, 2},
		{"a promotion", []error{stranger}, nil, []string{"promote", "dev10"}, 1, "", []string{
			"ctl: whether node dev10 was promoted is not known here: this node is not a manager any more\n"}, 1},
	} {
		s := clitest.Three()
		s.Follower, s.Learning, s.Staying = true, 2, 2
		s.Fail["GetNode"], s.Fail["UpdateNode"] = tt.get, tt.update
		check(t, clitest.Run(t, s, append([]string{"node"}, tt.args...)...), tt.code, tt.out, tt.speech...)
		updates := 0
		for _, c := range s.Calls {
			if c == "UpdateNode" {
				updates++
			}
		}
		if updates != tt.updates {
			t.Errorf("%s: asked %d times, want %d", tt.name, updates, tt.updates)
		}
	}
}

func TestTheNextHostAnswers(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	socket, stop, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	r := clitest.Run(t, nil, "--host", "unix:///nonexistent/ctl.sock,unix://"+socket, "node", "ls", "-q")
	check(t, r, 0, "aafxassx3u1qhkhg9y96rbf1b\n")
	r = clitest.Run(t, nil, "--host", "unix:///nonexistent/a.sock,unix:///nonexistent/b.sock", "node", "ls")
	check(t, r, 3, "", "/nonexistent/a.sock", "/nonexistent/b.sock")
}

func TestATokenComesFromStandardInput(t *testing.T) {
	t.Parallel()
	r := clitest.RunIn(t, t.Context(), clitest.Three(), say.Streams{In: strings.NewReader(clitest.ManagerToken + "\n")},
		"swarm", "join", "--token-file", "-", "192.0.2.1")
	check(t, r, 0, "This node joined a swarm as a manager.\n")
	r = clitest.RunIn(t, t.Context(), clitest.Three(), say.Streams{In: strings.NewReader("SWMTKN-1-secret")},
		"swarm", "join", "--token-file", "-", "192.0.2.1")
	check(t, r, 2, "", "ctl: join: token: want 4 parts")
	if strings.Contains(r.Err, "secret") {
		t.Errorf("the token is quoted: %s", r.Err)
	}
}

func TestProgressIsDrawnOnATerminal(t *testing.T) {
	t.Parallel()
	streams := say.Streams{Terminal: func() (int, bool) { return 80, true }}
	r := clitest.RunIn(t, t.Context(), clitest.Three(), streams, "service", "create", "--name", "web", "--update-monitor", "0s", "alpine")
	check(t, r, 0, "\n", "1/1: running   [==================================================>]\n", "verify: Service converged\n")
}

func TestTwoManagersAreWarnedOf(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Cluster.Managers = 2
	check(t, clitest.Run(t, s, "info"), 0, " Managers: 2\n", "ctl: warning: this swarm has two managers")
}

func TestInfoWithoutAQuorumShowsWhatTheNodeKnows(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Fail["GetCluster"] = []error{rpc.RefuseNoLeader(nil, 2, 1)}
	r := clitest.Run(t, s, "info")
	check(t, r, 0, " Error: The swarm does not have a leader.")
	check(t, r, 0, " Is Manager: true\n ClusterID: ")
}

// TestInfoDoesNotWaitForALeaderThatIsNotThere: whether there is a quorum is not
// asked of a manager that has said there is none.
func TestInfoDoesNotWaitForALeaderThatIsNotThere(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Cut, s.Daemon.OutOfContact = true, true
	r := clitest.Run(t, s, "info")
	check(t, r, 0, " Error: The swarm does not have a leader.", "stale: the last state this manager knows; it lost the others about a minute ago")
	check(t, r, 0, " Nodes: 4\n")
	check(t, r, 0, " In Contact With The Quorum: false\n")
	s.Daemon.OutOfContact = false // it has not noticed yet
	check(t, clitest.Run(t, s, "info"), 0, " Error: The swarm does not have a leader.")
}

func TestWhatIsNotPlacedSaysWhy(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	s.Idle = true
	s.Add(&modelv1.ServiceSpec{Name: "web", Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 1}}},
		&modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine"}})
	s.Edit(func(s *clitest.Swarm) {
		edit(s.Tasks, func(t *controlv1.TaskView) {
			t.Task.Reason, t.Task.Node, t.NodeName = "no suitable node (4 do not meet a constraint)", nil, ""
		})
	})
	check(t, clitest.Run(t, s, "service", "ps", "--no-trunc", "web"), 0, `"no suitable node (4 do not meet a constraint)"`)
	r := clitest.Run(t, s, "service", "scale", "web=1", "--timeout", "1s")
	check(t, r, 1, "web scaled to 1\n", "0 of 1 tasks run; 1/1: no suitable node (4 do not meet a constraint)\n")
}

func edit(tasks []*controlv1.TaskView, change func(*controlv1.TaskView)) {
	for _, t := range tasks {
		change(t)
	}
}

// A Docker configuration of its own needs the environment, so no t.Parallel.
func TestCredentialsAreSentWhenTheyAreAskedForAndForTheImagesRegistryOnly(t *testing.T) {
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	config := `{"auths":{"r.test":{"username":"bee","password":"honey"},"s.test":{"username":"wasp","password":"sting"}}}`
	if err := os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s := clitest.Three()
	for _, step := range []struct{ line, want string }{
		{"create -d --name web --with-registry-auth r.test/app sh -c --with-registry-auth", "r.test bee honey"},
		{"update -d --image r.test/app:2 web", "  "},
		{"update -d --label-add a=b --with-registry-auth web", "r.test bee honey"},
		{"update -d --image s.test/app --with-registry-auth web", "s.test wasp sting"},
		{"update -d --rollback --with-registry-auth web", "r.test bee honey"},
		{"rollback -d web", "  "},
		{"create -d --name other --with-registry-auth t.test/app", "  "},
	} {
		r := clitest.Run(t, s, append([]string{"service"}, strings.Fields(step.line)...)...)
		if got := s.Auth.GetRegistry() + " " + s.Auth.GetUsername() + " " + string(s.Auth.GetPassword()); got != step.want || r.Code != 0 {
			t.Errorf("%s: sent %q (exit %d, %s), want %q", step.line, got, r.Code, r.Err, step.want)
		}
		if said := strings.Contains(r.Err, "no credentials for t.test"); said != strings.Contains(step.line, "t.test") || strings.Contains(r.Out+r.Err, "honey") {
			t.Errorf("%s: said %q", step.line, r.Err)
		}
	}
}

func TestWhoIsMissingIsSaidWithSinceWhen(t *testing.T) {
	t.Parallel()
	s := clitest.Three()
	gone := clitest.Ago(3 * time.Minute)
	s.Daemon.UnreachableManagers, s.Daemon.UnreachableSince = []string{"dev02 (192.0.2.2:2377)"}, []int64{gone}
	check(t, clitest.Run(t, s, "info"), 0, "  dev02 (192.0.2.2:2377) since 2026-03-01 11:57:00 +0000 UTC\n")
	check(t, clitest.Run(t, s, "info", "--format", "json"), 0, `"UnreachableSince":["2026-03-01T11:57:00Z"]`)
	n := s.Nodes[1]
	n.Manager.UnreachableSince, n.Node.Status.LostSince, n.Node.Status.Message = gone, gone, "no heartbeat"
	n.Node.Status.State = modelv1.NodeState_NODE_STATE_DOWN
	check(t, clitest.Run(t, s, "node", "inspect", "--pretty", "dev02"), 0, "no heartbeat\n Not heard since:")
	check(t, clitest.Run(t, s, "node", "inspect", "dev02"), 0, `"UnreachableSince": "2026-03-01T11:57:00Z"`)
}
