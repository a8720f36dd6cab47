package cli_test

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/completion"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
)

// complete asks as the scripts do: line's words, the last of them being typed.
func complete(t testing.TB, s *clitest.Swarm, line string) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(ask(t, s, strings.Split(line, " ")), "\n"), "\n")
}

func ask(t testing.TB, s *clitest.Swarm, words []string) string {
	t.Helper()
	host := "unix:///nonexistent/ctl.sock"
	if s != nil {
		socket, stop, err := s.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		host = "unix://" + socket
	}
	streams := say.Streams{Getenv: func(name string) string { return map[string]string{"CTL_HOST": host}[name] }}
	r := clitest.RunIn(t, t.Context(), nil, streams, append([]string{completion.Asked, "--"}, words...)...)
	if r.Code != 0 || r.Err != "" {
		t.Fatalf("completing %q: exit %d, speech %q; want neither", words, r.Code, r.Err)
	}
	return r.Out
}

func TestWhatMayBeTyped(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ line, want string }{
		{"sw", "words swarm\tmake, join, change, leave, save and restore a swarm"},
		{"__c", ""},
		{"node ls ", ""}, // it takes no argument
		{"node li", ""},  // an alias works and is not offered
		{"node ls --q", "words --quiet\tshow ids only"},
		{"node ls --quiet --q", ""}, // given already
		{"node ls --stale=", "words --stale=true --stale=false"},
		{"node ls --format ", "words json"},
		{"service create --env A=1 --env", "words --env\tKEY=VALUE in the environment --env-file\tFILE of KEY=VALUE lines"},
		{"service create --env-file ", "files"},
		{"service create alpine --r", ""}, // behind the image all is the container's
		{"service create --restart-condition on", "words on-failure"},
		{"service create --update-failure-action ro", "words rollback"},
		{"service update ping --publish", ""}, // known, not served, not told
		{"--run-dir ", "dirs"},
		{"daemon --state-dir ", "dirs"},
		{"daemon --log-format j", "words json"},
		{"swarm update --mass-loss-guard o", "words on off"},
		{"node ps --filter membership", ""},
		{"node ls --filter membership=", "words membership=accepted membership=pending"},
		{"node ls --filter colour=", ""},
		{"service ps --filter node=dev1", "words node=dev10\tba8cvgn9pb4bbuhwvq8w1aw7v"},
		{"service ps ping pi", ""}, // named already
		{"node nothing ", ""},
		{"node ls --nothing ", ""},
		{"info -- ", ""},
	} {
		got := strings.Join(complete(t, clitest.Three().AddPing(), tt.line), " ")
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("ctl %s (-want +got):\n%s", tt.line, diff)
		}
	}
}

func TestASwarmThatDoesNotAnswerIsNotWaitedForLong(t *testing.T) {
	t.Parallel()
	worker := clitest.Three()
	worker.Worker = true
	deaf := clitest.Three()
	deaf.Fail["ListNodes"] = slices.Repeat([]error{rpc.Errorf(errdefs.ErrUnavailable, "an election is on")}, 1000)
	for name, s := range map[string]*clitest.Swarm{"no daemon": nil, "a worker": worker, "no leader": deaf} {
		if diff := cmp.Diff([]string{"words", "self"}, complete(t, s, "node inspect ")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket) // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := ask(t, nil, []string{"--host=unix://" + socket, "node", "inspect", ""}); got != "words\nself\n" {
		t.Errorf("a daemon that hangs: %q, want self alone", got)
	}
}

func TestScriptsAreForShellsThatAreKnown(t *testing.T) {
	t.Parallel()
	check(t, clitest.Run(t, nil, "completion", "bash"), 0, "complete -F _ctl ctl\n")
	check(t, clitest.Run(t, nil, "completion", "zsh"), 0, "#compdef ctl\n")
	check(t, clitest.Run(t, nil, "completion", "fish"), 0, "complete -c ctl")
	check(t, clitest.Run(t, nil, "completion", "csh"), 2, "", "ctl: completion: say for which shell: bash, zsh or fish\n")
	check(t, clitest.Run(t, nil, "completion"), 2, "", "for which shell")
}

// FuzzCompletion types anything: there is never speech, never an exit code, and
// what is offered goes on from what was typed.
func FuzzCompletion(f *testing.F) {
	for _, line := range []string{"", "node ls --f", "node ls --filter role=", "-", "--", "---", "--host", "--host=", "service create -e", "service create --mode=g", "node -qf", "-H x node", "help ", "service ps --filter node=x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		out := ask(t, nil, words)
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		switch {
		case out == "":
		case lines[0] == "files", lines[0] == "dirs":
		case lines[0] != "words" || len(lines) == 1:
			t.Errorf("completing %q: %q; want a kind and words", line, out)
		default:
			for _, l := range lines[1:] {
				if word, _, _ := strings.Cut(l, "\t"); !strings.HasPrefix(word, words[len(words)-1]) {
					t.Errorf("completing %q offers %q", line, word)
				}
			}
		}
	})
}
