package daemon

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"
)

// isJournal reports whether w is the stream to systemd's journal that
// JOURNAL_STREAM names: "device:inode". One that was redirected is not.
func isJournal(w io.Writer, stream string) bool {
	f, ok := w.(*os.File)
	if !ok || stream == "" {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// withoutTime leaves out a record's own time: the journal has it already.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// journal begins each line with its level as the journal reads it, so that
// "journalctl -p warning" finds what is one. It is one handler for each level.
type journal struct {
	debug, info, warn, err slog.Handler
}

// newJournal makes a journal of w by write, which makes a handler of a writer.
func newJournal(w io.Writer, write func(io.Writer) slog.Handler) slog.Handler {
	mu := &sync.Mutex{}
	at := func(priority int) slog.Handler {
		return write(&prefixed{mu: mu, w: w, prefix: fmt.Sprintf("<%d>", priority)})
	}
	return journal{debug: at(7), info: at(6), warn: at(4), err: at(3)}
}

func (j journal) of(l slog.Level) slog.Handler {
	switch {
	case l >= slog.LevelError:
		return j.err
	case l >= slog.LevelWarn:
		return j.warn
	case l >= slog.LevelInfo:
		return j.info
	}
	return j.debug
}

// Enabled reports whether records of level l are written.
func (j journal) Enabled(ctx context.Context, l slog.Level) bool { return j.of(l).Enabled(ctx, l) }

// Handle writes r.
func (j journal) Handle(ctx context.Context, r slog.Record) error {
	return j.of(r.Level).Handle(ctx, r)
}

// WithAttrs returns a journal whose records have attrs.
func (j journal) WithAttrs(attrs []slog.Attr) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup returns a journal whose records' attributes are in a group.
func (j journal) WithGroup(name string) slog.Handler {
	return j.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (j journal) each(do func(slog.Handler) slog.Handler) slog.Handler {
	return journal{debug: do(j.debug), info: do(j.info), warn: do(j.warn), err: do(j.err)}
}

// prefixed writes a prefix before each write, both at once.
type prefixed struct {
	mu     *sync.Mutex // held for one write: several share w
	w      io.Writer
	prefix string
}

// Write writes the prefix and p.
func (x *prefixed) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, err := x.w.Write(append([]byte(x.prefix), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}
