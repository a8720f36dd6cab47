package show

import (
	"fmt"
	"io"
	"strings"
)

// valueAt is the cell at which the values of the pretty form begin.
const valueAt = 24

// A Sheet is the pretty form of one object: names and values under one another,
// blocks indented by one more space each.
type Sheet struct {
	b      strings.Builder
	indent int
}

// Field writes "Name:   value"; an empty value is left out.
func (s *Sheet) Field(name, value string) {
	if value == "" {
		return
	}
	head := spaces(s.indent) + name + ":"
	fmt.Fprintf(&s.b, "%s%s%s\n", head, spaces(max(1, valueAt-Width(head))), value)
}

// Line writes a line of its own at the present depth.
func (s *Sheet) Line(text string) { s.b.WriteString(spaces(s.indent) + text + "\n") }

// Raw writes text as it is.
func (s *Sheet) Raw(text string) { s.b.WriteString(text) }

// Block writes "Name:" and what fill writes below it, and nothing at all if fill
// writes nothing.
func (s *Sheet) Block(name string, fill func(*Sheet)) {
	inner := &Sheet{indent: s.indent + 1}
	fill(inner)
	if inner.b.Len() == 0 {
		return
	}
	s.Line(name + ":")
	s.b.WriteString(inner.b.String())
}

// Items writes a block of " - item" lines.
func (s *Sheet) Items(name string, items []string) {
	s.Block(name, func(s *Sheet) {
		for _, item := range items {
			s.Line("- " + item)
		}
	})
}

// Print writes the sheet and an empty line.
func (s *Sheet) Print(w io.Writer) error {
	_, err := fmt.Fprintln(w, s.b.String())
	return err
}
