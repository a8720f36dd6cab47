package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/slogtest"
	"time"
)

func TestHandlersKeepThePromisesOfSlog(t *testing.T) {
	t.Parallel()
	for name, wrap := range map[string]func(*bytes.Buffer) slog.Handler{
		"bound": func(b *bytes.Buffer) slog.Handler { return newBound(slog.NewJSONHandler(b, nil)) },
		"journal": func(b *bytes.Buffer) slog.Handler {
			return newJournal(b, func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, nil) })
		},
	} {
		var out bytes.Buffer
		slogtest.Run(t, func(*testing.T) slog.Handler { out.Reset(); return wrap(&out) }, func(t *testing.T) map[string]any {
			line := out.String()
			if name == "journal" {
				line = strings.TrimPrefix(line, "<6>")
			}
			var m map[string]any
			if err := json.Unmarshal([]byte(line), &m); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			return m
		})
	}
}

// at is a record of a warning.
func at(when time.Time, text string) slog.Record {
	return slog.NewRecord(when, slog.LevelWarn, text, 0)
}

func TestAWarningThatComesAgainAndAgainIsLeftOutAndCounted(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	h := newBound(slog.NewTextHandler(&out, nil))
	alike := h.WithAttrs([]slog.Attr{slog.String("task", "other")}) // whoever says it
	now := time.Unix(1e9, 0)
	for i := range 100 {
		say := h
		if i%2 == 1 {
			say = alike
		}
		if err := say.Handle(t.Context(), at(now.Add(time.Duration(i)*100*time.Millisecond), "same")); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(out.String(), "msg=same"); n != perWindow {
		t.Errorf("said %d times, want %d", n, perWindow)
	}
	if n := strings.Count(out.String(), "more_left_out_for=1m0s"); n != 1 {
		t.Errorf("%d records say that more are left out, want the last one", n)
	}
	out.Reset()
	for _, text := range []string{"another", "same"} {
		if err := h.Handle(t.Context(), at(now.Add(window), text)); err != nil {
			t.Fatal(err)
		}
	}
	if got := out.String(); !strings.Contains(got, "msg=another\n") || !strings.Contains(got, "msg=same left_out_before=70\n") {
		t.Errorf("the next window says %q, want another alone and same with 70 left out", got)
	}
}

func TestNothingElseIsLeftOut(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		level, log slog.Level
		same       bool
	}{
		"changes of state":       {slog.LevelInfo, slog.LevelInfo, true},
		"warnings at debug":      {slog.LevelWarn, slog.LevelDebug, true},
		"different warnings":     {slog.LevelWarn, slog.LevelInfo, false},
		"more than are counted":  {slog.LevelWarn, slog.LevelInfo, false},
		"errors of another kind": {slog.LevelError, slog.LevelInfo, false},
	} {
		var out bytes.Buffer
		h := newBound(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: tt.log}))
		const n = 2 * maxSentences
		for i := range n {
			text := "same"
			if !tt.same {
				text = fmt.Sprint("text ", i)
			}
			if err := h.Handle(t.Context(), slog.NewRecord(time.Unix(1e9, 0), tt.level, text, 0)); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.Count(out.String(), "\n"); got != n {
			t.Errorf("%s: %d lines of %d", name, got, n)
		}
	}
}

func TestInTheJournalALineHasItsPriorityAndNoTime(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	st := info.Sys().(*syscall.Stat_t) //nolint:forcetypeassert // it is, on Linux
	stream := fmt.Sprintf("%d:%d", st.Dev, st.Ino)
	log, level, err := newLog(f, "info", "text", stream)
	if err != nil {
		t.Fatal(err)
	}
	level.Set(slog.LevelDebug)
	log = log.With("node", "n1")
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		log.Log(t.Context(), l, "said")
	}
	got, err := os.ReadFile(f.Name())
	want := "<7>level=DEBUG msg=said node=n1\n<6>level=INFO msg=said node=n1\n<4>level=WARN msg=said node=n1\n<3>level=ERROR msg=said node=n1\n"
	if err != nil || string(got) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, got, want)
	}
	for _, other := range []string{"", "1:1", stream + "0"} {
		if isJournal(f, other) {
			t.Errorf("%q counts as the journal's %s", other, stream)
		}
	}
	var b bytes.Buffer
	if isJournal(&b, stream) {
		t.Error("a buffer counts as the journal")
	}
}

// sayings is a log that tells each line.
type sayings chan string

func (s sayings) Write(p []byte) (int, error) { s <- string(p); return len(p), nil }

func TestASignalTurnsTheLogToDebugAndBack(t *testing.T) { // the process's signals: not in parallel
	lines := make(sayings, 1)
	log, level, err := newLog(lines, "error", "json", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	toggleDebug(ctx, log, level)
	for _, want := range []string{"DEBUG", "ERROR", "DEBUG"} {
		if err := syscall.Kill(os.Getpid(), syscall.SIGUSR2); err != nil {
			t.Fatal(err)
		}
		if got := <-lines; !strings.Contains(got, `"msg":"log level changed","to":"`+want+`"`) {
			t.Errorf("said %s, want a change to %s", got, want)
		}
	}
}

func TestALogIsOfAKnownLevelAndFormat(t *testing.T) {
	t.Parallel()
	for _, tt := range [][2]string{{"loud", "text"}, {"info", "xml"}, {"", "text"}} {
		if _, _, err := newLog(os.Stderr, tt[0], tt[1], ""); err == nil {
			t.Errorf("level %q format %q is taken", tt[0], tt[1])
		}
	}
}
