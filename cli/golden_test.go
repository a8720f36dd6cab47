package cli_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-shellwords"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/say"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

// typed is a line of a file that is a command; a number says how wide the
// terminal is that its output is read on.
var typed = regexp.MustCompile(`^\$(\d*) ctl (.*)`)

// TestConversations runs the commands of each file under testdata and compares
// what was answered: output as it is, speech behind "! ", then the exit code if
// it is not 0.
func TestConversations(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			old, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := converse(t, filepath.Base(file), string(old))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(string(old), got); diff != "" && !*rewrite {
				t.Errorf("answers differ (-want +got), -update rewrites them:\n%s", diff)
			}
		})
	}
}

// converse keeps comments and commands of text and answers the commands anew.
func converse(t *testing.T, name, text string) string {
	t.Helper()
	var b strings.Builder
	swarm := scene(name)
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if strings.HasPrefix(line, "# ") {
			b.WriteString(line + "\n")
		}
		command := typed.FindStringSubmatch(line)
		if command == nil {
			continue
		}
		width, _ := strconv.Atoi(command[1]) // none is 0: no terminal
		args, err := shellwords.Parse(command[2])
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		r := clitest.RunIn(t, t.Context(), swarm, say.Streams{Width: func() int { return width }}, args...)
		b.WriteString(line + "\n----\n" + r.Out)
		for speech := range strings.Lines(r.Err) {
			b.WriteString("! " + speech)
		}
		if r.Code != 0 {
			fmt.Fprintf(&b, "exit %d\n", r.Code)
		}
		b.WriteString("\n")
	}
	return b.String()
}

// scene is the swarm that a file's commands find.
func scene(name string) *clitest.Swarm {
	switch name {
	case "nodaemon.txt":
		return nil
	case "worker.txt":
		s := clitest.Three()
		s.Worker = true
		s.Daemon.Role, s.Daemon.Leader = 1, false
		return s
	case "fresh.txt":
		s := clitest.Three()
		s.Daemon.Reset()
		s.Daemon.State, s.Daemon.Hostname = 1, "dev01"
		return s
	}
	s := clitest.Three().AddPing()
	if name == "token.txt" {
		s.AddTokens()
	}
	if name == "narrow.txt" {
		crowd(s)
	}
	return s
}

// crowd gives a swarm names and errors as they are in the field.
func crowd(s *clitest.Swarm) {
	s.Nodes[1].Node.Description.Hostname = "manager-eu-west-1b.prod.example.net"
	s.Nodes[1].Manager.Reachability = controlv1.ManagerStatus_REACHABILITY_UNREACHABLE
	s.Nodes[1].Node.Status.State = modelv1.NodeState_NODE_STATE_DOWN
	s.Nodes[3].Node.Spec.Availability = modelv1.Availability_AVAILABILITY_DRAIN
	s.Nodes[0].Node.Description.Version = "v0.1.0-37-g1a2b3c4-dirty"
	s.Add(&modelv1.ServiceSpec{Name: "checkout-frontend-canary", Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 3}}},
		&modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "registry.example.net/shop/checkout-frontend:2026.3.1"}})
}
