package node

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/sealed"
)

func TestTheUnlockCommandsOutputIsTheKeyAndNothingElseOfItIsTold(t *testing.T) {
	t.Setenv("OF_THE_DAEMON", "secret")
	key := string(sealed.SpellUnlockKey(sealed.NewUnlockKey()).Reveal())
	file := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(file, []byte(key+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		line, want string // want: part of the error; empty: the key
	}{
		"a file":               {"cat " + file, ""},
		"words besides":        {"echo looking >&2; cat " + file, ""},
		"a credential":         {`cat "$CREDENTIALS_DIRECTORY/key"`, ""},
		"nothing":              {"true", "it does not begin with SKEPKEY-1-"},
		"another word":         {"echo hunter2", "it does not begin with SKEPKEY-1-"},
		"an error":             {"echo no TPM >&2; exit 3", `exit status 3: it said "no TPM"`},
		"no such program":      {"/no/such/program", `it said "`},
		"the key as an error":  {"cat " + file + " >&2; exit 1", "exit status 1"},
		"no end":               {"yes", "prints more than"},
		"the daemon's secrets": {`echo "SKEPKEY-1-$OF_THE_DAEMON"`, "0 letters follow"},
		"its input":            {"cat", "it does not begin with SKEPKEY-1-"},
	} {
		got, err := runUnlockCommand(t.Context(), tt.line, []string{"PATH=/usr/bin:/bin", "CREDENTIALS_DIRECTORY=" + filepath.Dir(file)})
		switch {
		case tt.want == "" && (err != nil || strings.TrimSpace(string(got.Reveal())) != key):
			t.Errorf("%s: %v, want the key", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
		if err != nil && (strings.Contains(err.Error(), key[20:]) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: the error quotes what was printed: %v", name, err)
		}
	}
}

func TestAnUnlockCommandIsEndedWithAllItStarted(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	fifo := filepath.Join(t.TempDir(), "started")
	began := make(chan struct{})
	go func() { // until the command has made the file
		defer close(began)
		for ctx.Err() == nil {
			if _, err := os.Stat(fifo); err == nil {
				return
			}
		}
	}()
	go func() { <-began; stop() }()
	start := time.Now()
	_, err := runUnlockCommand(ctx, "(sleep 60; echo late) & touch "+fifo+"; wait", []string{"PATH=/usr/bin:/bin"})
	if err == nil || time.Since(start) > 20*time.Second {
		t.Errorf("after %v: %v, want it ended with its context", time.Since(start), err)
	}
	stop()
}
