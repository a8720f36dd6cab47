package script

import (
	"os"
	"os/exec"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skep-project/skep/cli/clitest"
)

// TestShells has each shell complete command lines. A machine without one of
// them fails, unless its user could not install it.
func TestShells(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			need(t, "%s is not installed: make packages (as root on Debian) installs it", shell)
		}
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/shells",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			socket, stop, err := clitest.Three().AddPing().Listen()
			if err != nil {
				return err
			}
			env.Defer(stop)
			env.Setenv("CTL_HOST", "unix://"+socket)
			env.Setenv("TERM", "dumb")
			return nil
		},
	})
}

// need ends a test for want of a tool: as a failure where it could be installed.
func need(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}
