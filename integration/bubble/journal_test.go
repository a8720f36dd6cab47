package bubble

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"
)

// A journal keeps what daemons log, and writes it to the test's output with
// the time since the test began.
type journal struct {
	out   slog.Handler
	began time.Time

	mu      sync.Mutex // guards the field below
	records []record
}

// A record is one line of a host's log.
type record struct {
	at    time.Time
	host  string
	text  string
	facts map[string]string
}

func newJournal(t *testing.T) *journal {
	level := slog.LevelInfo
	if testing.Verbose() {
		level = slog.LevelDebug
	}
	j := &journal{began: time.Now()}
	j.out = slog.NewTextHandler(t.Output(), &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Duration("t", a.Value.Time().Sub(j.began))
			}
			return a
		},
	})
	return j
}

// of is the log of a host.
func (j *journal) of(host string) *slog.Logger {
	return slog.New(writer{j, host, j.out.WithAttrs([]slog.Attr{slog.String("host", host)})})
}

// since returns the records of a text since a moment.
func (j *journal) since(at time.Time, text string) []record {
	j.mu.Lock()
	defer j.mu.Unlock()
	var found []record
	for _, r := range j.records {
		if r.text == text && !r.at.Before(at) {
			found = append(found, r)
		}
	}
	return found
}

// sessionOf is the address of the manager that a host's agent is connected to.
func (j *journal) sessionOf(h *host) string { return j.sessionAt(h, time.Now()) }

// sessionAt is sessionOf at a moment in the past.
func (j *journal) sessionAt(h *host, at time.Time) string {
	address := ""
	for _, r := range j.since(j.began, "session opened") {
		if r.host == h.name && !r.at.After(at) {
			address = r.facts["address"]
		}
	}
	return address
}

// writer is a journal's handler for one host.
type writer struct {
	journal *journal
	host    string
	out     slog.Handler
}

func (w writer) Enabled(ctx context.Context, l slog.Level) bool { return w.out.Enabled(ctx, l) }

func (w writer) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "raft says" && !rafts {
		return nil
	}
	facts := make(map[string]string)
	r.Attrs(func(a slog.Attr) bool {
		facts[a.Key] = a.Value.String()
		return true
	})
	w.journal.mu.Lock()
	w.journal.records = append(w.journal.records, record{at: r.Time, host: w.host, text: r.Message, facts: facts})
	w.journal.mu.Unlock()
	return w.out.Handle(ctx, r)
}

func (w writer) WithAttrs(attrs []slog.Attr) slog.Handler {
	return writer{w.journal, w.host, w.out.WithAttrs(attrs)}
}

func (w writer) WithGroup(name string) slog.Handler {
	return writer{w.journal, w.host, w.out.WithGroup(name)}
}

// rafts shows what raft says, too.
const rafts = false
