package script

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// guide NAME WORDS FILE [OLD=NEW...]: writes to FILE the first block of code of
// docs/guides/NAME that comes behind a line which holds WORDS, as it stands there; but
// for each OLD, which must be there, NEW: where a test is not where an operator is.
func guide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: guide NAME WORDS FILE [OLD=NEW...]")
	}
	text, err := os.ReadFile(filepath.Join("../../docs/guides", args[0]))
	ts.Check(err)
	block, ok := codeBehind(string(text), args[1])
	if !ok {
		ts.Fatalf("there is no block of code behind %q in %s", args[1], args[0])
	}
	for _, change := range args[3:] {
		from, to, ok := strings.Cut(change, "=")
		if !ok || !strings.Contains(block, from) {
			ts.Fatalf("there is no %q in what %s says behind %q", from, args[0], args[1])
		}
		block = strings.ReplaceAll(block, from, to)
	}
	ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[2])), 0o700))
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(block), 0o700))
}

// codeBehind is the first fenced block behind a line that holds words.
func codeBehind(text, words string) (block string, ok bool) {
	const fence = "```"
	_, text, ok = strings.Cut(text, words)
	if !ok {
		return "", false
	}
	_, text, ok = strings.Cut(text, "\n"+fence)
	if !ok {
		return "", false
	}
	_, text, _ = strings.Cut(text, "\n") // the language
	block, _, ok = strings.Cut(text, "\n"+fence)
	return block + "\n", ok
}
