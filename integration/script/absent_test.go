package script

import (
	"bytes"
	"encoding/base32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// absent DIR FILE…: no file below DIR holds the unlock key in FILE, spelled or as its
// bytes, and no process of this user has it among its arguments or in its environment.
func absent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: absent DIR FILE...")
	}
	var secrets [][]byte
	for _, name := range args[1:] {
		text := strings.TrimSpace(ts.ReadFile(name))
		raw, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(strings.TrimPrefix(text, "SKEPKEY-1-"))
		ts.Check(err)
		secrets = append(secrets, []byte(text), raw[:32])
	}
	searched := 0
	search := func(path string) {
		data, err := os.ReadFile(path)
		if err != nil {
			return // it has gone, or is another user's
		}
		searched++
		for _, s := range secrets {
			if bytes.Contains(data, s) {
				ts.Fatalf("%s holds an unlock key", path)
			}
		}
	}
	ts.Check(filepath.WalkDir(ts.MkAbs(args[0]), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			search(path)
		}
		return err
	}))
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		found, err := filepath.Glob(pattern)
		ts.Check(err)
		for _, path := range found {
			search(path)
		}
	}
	if searched < 10 {
		ts.Fatalf("only %d files were searched", searched)
	}
}
