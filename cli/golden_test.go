package cli_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/mattn/go-shellwords"

	"github.com/skep-project/skep/cli/clitest"
)

var rewrite = flag.Bool("update", false, "rewrite the golden files")

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
		if !strings.HasPrefix(line, "$ ctl ") {
			continue
		}
		args, err := shellwords.Parse(strings.TrimPrefix(line, "$ ctl "))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		r := clitest.Run(t, swarm, args...)
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
	return clitest.Three().AddPing()
}
