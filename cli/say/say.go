// Package say is how ctl speaks to the person who typed the command.
//
// It owns the streams a command finds around it, the two lines an error becomes
// ("ctl: what happened" and "ctl: hint: what to do next") and the exit codes.
// It does not know what any command does.
//
// Invariant: data goes to Out, speech to Err; so the output of a command can be
// piped into another without a line of speech in it.
package say

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/skep-project/skep/internal/sealed"
)

// Streams is what a command finds around it. Main fills it once; tests give
// buffers and a fixed clock.
type Streams struct {
	// In is where a token may be read from.
	In io.Reader
	// Out takes data, Err takes speech.
	Out, Err io.Writer
	// Getenv reads the environment. Nil: there is none.
	Getenv func(string) string
	// Terminal returns the width of the terminal behind Err, in cells, and
	// whether there is one. Nil: there is none.
	Terminal func() (width int, ok bool)
	// Width returns the width of the terminal behind Out, in cells; 0 if there is
	// none. Nil: there is none.
	Width func() int
	// Ask shows a prompt on the terminal and reads a line without showing it. Nil:
	// there is no terminal to ask at.
	Ask func(ctx context.Context, prompt string) (sealed.Secret, error)
	// Now is the clock that ages are measured against where the swarm gave no
	// time of its own. Nil: the wall clock.
	Now func() time.Time
	// Poll is the pause between two looks at something that cannot be watched.
	// Zero: 250ms.
	Poll time.Duration
}

// Filled returns s with every absent field at its default.
func (s Streams) Filled() *Streams {
	if s.Getenv == nil {
		s.Getenv = func(string) string { return "" }
	}
	if s.Terminal == nil {
		s.Terminal = func() (int, bool) { return 0, false }
	}
	if s.Width == nil {
		s.Width = func() int { return 0 }
	}
	if s.Now == nil {
		s.Now = time.Now
	}
	if s.Poll == 0 {
		s.Poll = 250 * time.Millisecond
	}
	return &s
}

// Data prints a line of what was asked for.
func (s *Streams) Data(format string, args ...any) error {
	_, err := fmt.Fprintf(s.Out, format+"\n", args...)
	return err
}

// Warn prints a sentence the operator should know about.
func (s *Streams) Warn(text string) {
	_, _ = fmt.Fprintln(s.Err, "ctl: warning: "+oneLine(text)) // speech: nobody to tell if it is lost
}

// Warnings prints each of them.
func (s *Streams) Warnings(texts []string) {
	for _, t := range texts {
		s.Warn(t)
	}
}

// Note prints a line of speech that is neither a warning nor an error.
func (s *Streams) Note(format string, args ...any) {
	_, _ = fmt.Fprintf(s.Err, "ctl: "+format+"\n", args...) // speech, as in Warn
}
