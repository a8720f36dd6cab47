package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// A warning or an error is written at most perWindow times a window; of further
// ones the next window tells how many there were. What is counted is the
// sentence, not its facts: a thousand tasks that fail alike say so thirty times.
// At most maxSentences are counted; more than the program has.
const (
	window       = time.Minute
	perWindow    = 30
	maxSentences = 1024
)

// bound leaves out what a log need not say again. At the debug level it leaves
// out nothing.
type bound struct {
	slog.Handler
	seen *seen
}

func newBound(h slog.Handler) slog.Handler {
	return bound{h, &seen{sentences: map[string]*sentence{}}}
}

type seen struct {
	mu        sync.Mutex // guards the field below; held for memory only
	sentences map[string]*sentence
}

// sentence is what was said of one kind in the window that began at begin.
type sentence struct {
	begin         time.Time
	said, leftOut int
}

// Handle writes r, unless enough of its kind were written.
func (b bound) Handle(ctx context.Context, r slog.Record) error {
	if r.Level < slog.LevelWarn || b.Enabled(ctx, slog.LevelDebug) {
		return b.Handler.Handle(ctx, r)
	}
	say, before, last := b.seen.may(r.Message, r.Time)
	if !say {
		return nil
	}
	if before > 0 || last {
		r = r.Clone()
	}
	if before > 0 {
		r.AddAttrs(slog.Int("left_out_before", before))
	}
	if last {
		r.AddAttrs(slog.Duration("more_left_out_for", window))
	}
	return b.Handler.Handle(ctx, r)
}

// may reports whether to say a sentence at now, how many were left out since the
// window before, and whether it is the last of this window.
func (s *seen) may(text string, now time.Time) (say bool, before int, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x := s.sentences[text]
	switch {
	case x == nil && len(s.sentences) >= maxSentences:
		return true, 0, false
	case x == nil:
		x = &sentence{begin: now}
		s.sentences[text] = x
	case now.Sub(x.begin) >= window:
		before = x.leftOut
		*x = sentence{begin: now}
	}
	if x.said >= perWindow {
		x.leftOut++
		return false, 0, false
	}
	x.said++
	return true, before, x.said == perWindow
}

// WithAttrs returns a handler whose records have attrs.
func (b bound) WithAttrs(attrs []slog.Attr) slog.Handler {
	return bound{b.Handler.WithAttrs(attrs), b.seen}
}

// WithGroup returns a handler whose records' attributes are in a group.
func (b bound) WithGroup(name string) slog.Handler { return bound{b.Handler.WithGroup(name), b.seen} }
