package script

import (
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skep-project/skep/cli/clitest"
)

// TestManualPagesAreSound has mandoc read every page and warn of anything.
func TestManualPagesAreSound(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("mandoc"); err != nil {
		need(t, "mandoc is not installed: make packages (as root on Debian) installs it")
	}
	dir := t.TempDir()
	if r := clitest.Run(t, nil, "man", dir); r.Code != 0 {
		t.Fatalf("ctl man: exit %d: %s", r.Code, r.Err)
	}
	pages := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		pages++
		if out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning", path).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("%s: %v\n%s", d.Name(), err, out)
		}
		out, err := exec.CommandContext(t.Context(), "mandoc", "-T", "utf8", path).Output()
		name := strings.TrimSuffix(d.Name(), filepath.Ext(d.Name()))
		if err != nil || !strings.Contains(string(out), name+" - ") {
			t.Errorf("%s: %v; its name and what it does are not to be read in\n%s", d.Name(), err, out)
		}
		return nil
	})
	if err != nil || pages < 25 {
		t.Errorf("%d pages, %v; want one for each command", pages, err)
	}
}
