package daemon

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/skep-project/skep/cli/say"
)

// newLog makes the daemon's log of the level and format said. The level may be
// changed while it runs. stream is JOURNAL_STREAM of the environment.
func newLog(w io.Writer, level, format, stream string) (*slog.Logger, *slog.LevelVar, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, nil, say.Misuse("log-level %q: want debug, info, warn or error", level)
	}
	at := &slog.LevelVar{}
	at.Set(l)
	opts := &slog.HandlerOptions{Level: at}
	var write func(io.Writer) slog.Handler
	switch format {
	case "text":
		write = func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, opts) }
	case "json":
		write = func(w io.Writer) slog.Handler { return slog.NewJSONHandler(w, opts) }
	default:
		return nil, nil, say.Misuse("log-format %q: want text or json", format)
	}
	h := write(w)
	if isJournal(w, stream) {
		opts.ReplaceAttr = withoutTime
		h = newJournal(w, write)
	}
	return slog.New(newBound(h)), at, nil
}

// toggleDebug makes SIGUSR2 turn the log to debug, and the next one back, until
// ctx ends: an operator sees more of a daemon that misbehaves without a restart
// that would mend it.
func toggleDebug(ctx context.Context, log *slog.Logger, at *slog.LevelVar) {
	usual := at.Level()
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR2)
	go func() { // ends with ctx, which run's return ends
		defer signal.Stop(asked)
		for {
			select {
			case <-asked:
			case <-ctx.Done():
				return
			}
			next := slog.LevelDebug
			if at.Level() == next {
				next = usual
			}
			at.Set(min(next, slog.LevelInfo)) // so that this is seen
			log.LogAttrs(ctx, slog.LevelInfo, "log level changed", slog.String("to", next.String()))
			at.Set(next)
		}
	}()
}
