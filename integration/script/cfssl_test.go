package script

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// cfsslModule is the module that pins cfssl's own programs.
const cfsslModule = "../../internal/tools/cfssl"

// programs is where the real cfssl and cfssljson are, or why they are not.
type programs struct {
	dir string
	err error
}

// cfsslPrograms finds what "make" has built, or builds it here.
func cfsslPrograms(t *testing.T) programs {
	t.Helper()
	if made := os.Getenv("SKEP_CFSSL"); made != "" {
		for _, name := range []string{"cfssl", "cfssljson"} {
			if _, err := exec.LookPath(filepath.Join(made, name)); err != nil {
				return programs{err: fmt.Errorf("SKEP_CFSSL: %w", err)}
			}
		}
		return programs{dir: made}
	}
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-C", cfsslModule, "-trimpath", "-o", dir+"/", "tool")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return programs{err: fmt.Errorf("build cfssl: %w: %s", err, out)}
	}
	return programs{dir: dir}
}

// cfssl: from here on the story finds cfssl's own programs, or fails.
func (p programs) cfssl(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: cfssl")
	}
	ts.Check(p.err)
	ts.Setenv("PATH", p.dir+string(filepath.ListSeparator)+ts.Getenv("PATH"))
}

// TestStoriesHaveTheCfsslThatOtherTestsHave: those have its handlers and its signer
// within themselves.
func TestStoriesHaveTheCfsslThatOtherTestsHave(t *testing.T) {
	t.Parallel()
	pinned := func(mod string) string {
		text, err := os.ReadFile(mod)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`github\.com/cloudflare/cfssl (v\S+)`).FindSubmatch(text)
		if found == nil {
			t.Fatalf("%s does not pin cfssl", mod)
		}
		return string(found[1])
	}
	if own, theirs := pinned(cfsslModule+"/go.mod"), pinned("../../go.mod"); own != theirs {
		t.Errorf("internal/tools/cfssl has cfssl %s, and go.mod %s", own, theirs)
	}
}
