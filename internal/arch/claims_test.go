package arch

import (
	"go/ast"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// claims is where it is said what holds against whom, and by which tests.
const claims = "docs/threat-model.md"

// In it a test is named in backquotes, after the package that it is in or after
// another test of that package: `ca`: `TestA`, `TestB`; `agent`: `FuzzC`.
var (
	quoted    = regexp.MustCompile("`([^`]+)`")
	testName  = regexp.MustCompile(`^(Test|Fuzz)[A-Z]\w*$`)
	storyName = regexp.MustCompile(`^[a-z]+\.txtar$`)
)

// A claim is a test that is named, and the package that is named before it; "" if the
// sentence names none.
type claim struct{ dir, name string }

// claimed returns the tests that a text names.
func claimed(text string, isDir func(string) bool) []claim {
	var out []claim
	for line := range strings.Lines(text) {
		dir := ""
		for _, m := range quoted.FindAllStringSubmatch(line, -1) {
			switch word := m[1]; {
			case testName.MatchString(word) || storyName.MatchString(word):
				out = append(out, claim{dir, word})
			case strings.Contains(word, "/") && isDir(word) || !strings.ContainsAny(word, " ./-") && isDir(word):
				dir = word
			}
		}
	}
	return out
}

// TestEveryClaimHasItsTest: a test that was renamed or removed takes its claim along.
func TestEveryClaimHasItsTest(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, claims))
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string][]string{} // the packages that have a test of the name
	for _, s := range sources(t) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && s.test && f.Recv == nil && testName.MatchString(f.Name.Name) {
				tests[f.Name.Name] = append(tests[f.Name.Name], s.dir)
			}
		}
	}
	isDir := func(name string) bool {
		info, err := os.Stat(filepath.Join(root, name))
		return err == nil && info.IsDir()
	}
	all := claimed(string(text), isDir)
	if len(all) < 50 {
		t.Errorf("%s names %d tests", claims, len(all))
	}
	for _, c := range all {
		switch in := tests[c.name]; {
		case storyName.MatchString(c.name):
			if found, err := filepath.Glob(filepath.Join(root, c.dir, "testdata", "*", c.name)); err != nil || len(found) != 1 {
				t.Errorf("%s: %q has no story %s", claims, c.dir, c.name)
			}
		case c.dir == "":
			t.Errorf("%s: no package is named before %s: it is in %v", claims, c.name, in)
		case !slices.Contains(in, c.dir):
			t.Errorf("%s: %s has no %s: it is in %v", claims, c.dir, c.name, in)
		}
	}
}

func TestClaimsAreRead(t *testing.T) {
	got := claimed("| what `ctl user rm` does | `ca`: `TestA`, `FuzzB`; `manager/enrol`: `TestC` |\nso (`TestD`) and `integration/script`: `audit.txtar`\n",
		func(s string) bool { return slices.Contains([]string{"ca", "manager/enrol", "integration/script"}, s) })
	want := []claim{{"ca", "TestA"}, {"ca", "FuzzB"}, {"manager/enrol", "TestC"}, {"", "TestD"}, {"integration/script", "audit.txtar"}}
	if !slices.Equal(got, want) {
		t.Errorf("read as %v, want %v", got, want)
	}
}
