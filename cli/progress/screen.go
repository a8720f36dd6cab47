// Package progress shows how far a service is, and waits until it is there.
//
// It owns the judgement "converged" as a client sees it, the lines and bars, and
// how they are drawn: again and again in place on a terminal, each change once
// elsewhere. It starts nothing in the swarm and stops nothing: whoever stops
// watching changes nothing.
//
// Invariant: View is pure: the same messages give the same report.
package progress

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/skep-project/skep/cli/show"
)

// A Line is one line of a frame.
type Line struct {
	// Text is shown everywhere.
	Text string
	// Bar follows the text on a terminal.
	Bar string
	// Plain stands for Text where there is no terminal. Empty: Text does.
	Plain string
}

// A Screen draws frames. The zero Screen with W set prints plain lines.
type Screen struct {
	W io.Writer
	// Width is the terminal's, in cells. Zero: it is not a terminal.
	Width int

	drawn int      // lines on the terminal that belong to the frame
	shown []string // what was printed last for each line
}

// Draw shows frame: in place of the one before on a terminal, else those of its
// lines that changed.
func (s *Screen) Draw(frame []Line) {
	if s.Width == 0 {
		s.plain(frame)
		return
	}
	var b strings.Builder
	if s.drawn > 0 {
		b.WriteString("\x1b[" + itoa(s.drawn) + "A")
	}
	for _, l := range frame {
		b.WriteString("\r\x1b[2K" + show.Cut(l.Text+l.Bar, s.Width-1) + "\n")
	}
	if extra := s.drawn - len(frame); extra > 0 {
		b.WriteString("\x1b[J") // what the longer frame left below
	}
	s.drawn = len(frame)
	s.write(b.String())
}

func (s *Screen) plain(frame []Line) {
	for i, l := range frame {
		text := strings.TrimRight(cmp.Or(l.Plain, l.Text), " ")
		if i < len(s.shown) && s.shown[i] == text {
			continue
		}
		s.write(text + "\n")
		s.shown = append(s.shown, make([]string, max(0, i+1-len(s.shown)))...)
		s.shown[i] = text
	}
	s.shown = slices.Clip(s.shown[:min(len(frame), len(s.shown))])
}

// End leaves the last frame standing; the next begins below it.
func (s *Screen) End() { s.drawn, s.shown = 0, nil }

// write: progress that cannot be shown is no reason to stop waiting.
func (s *Screen) write(text string) { _, _ = io.WriteString(s.W, text) }

// barWidth is the number of cells between the brackets of a full bar, less its
// head.
const barWidth = 50

// Bar draws part of whole.
func Bar(part, whole int) string {
	n := barWidth
	if whole > 0 {
		n = max(0, min(barWidth, part*barWidth/whole))
	}
	return "[" + strings.Repeat("=", n) + ">" + strings.Repeat(" ", barWidth-n) + "]"
}
