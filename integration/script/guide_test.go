package script

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// guide NAME WORDS FILE: writes to FILE the first block of code of docs/guides/NAME
// that comes behind a line which holds WORDS, as it stands there.
func guide(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: guide NAME WORDS FILE")
	}
	text, err := os.ReadFile(filepath.Join("../../docs/guides", args[0]))
	ts.Check(err)
	block, ok := codeBehind(string(text), args[1])
	if !ok {
		ts.Fatalf("there is no block of code behind %q in %s", args[1], args[0])
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
