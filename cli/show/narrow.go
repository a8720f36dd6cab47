package show

import (
	"slices"
	"strings"
)

// narrowGap stands between the cells of a table that would be too wide.
const narrowGap = 2

// A Cell is one column of a table as people read it.
type Cell struct {
	// Text is its template, Short what is taken instead where there is little
	// room; empty: the same.
	Text, Short string
	// Least is to how many cells of the screen it may be cut; 0: it is not cut.
	Least int
	// Middle: it is cut in the middle, because its end tells it from others.
	Middle bool
	// Gives is its place in the order in which columns are left out, 1 first; 0:
	// it stays.
	Gives int
}

// A sheet of cells that is being made to fit: line 0 is the headers.
type fitting struct {
	lines  [][]string
	cells  []Cell
	widths []int
	// lost says that a column was left out that had something in it.
	lost bool
}

func newFitting(cells []Cell, lines [][]string) *fitting {
	f := &fitting{lines: lines, cells: slices.Clone(cells)}
	f.measure()
	return f
}

// measure gives every column the width it would like.
func (f *fitting) measure() {
	f.widths = make([]int, len(f.cells))
	for _, line := range f.lines {
		for i, cell := range line {
			f.widths[i] = max(f.widths[i], Width(cell))
		}
	}
}

// over is by how much the table is too wide; at most 0 if it fits.
func (f *fitting) over(width int) int {
	sum := narrowGap * (len(f.widths) - 1)
	for _, w := range f.widths {
		sum += w
	}
	if f.lost {
		sum += narrowGap + 1 // the mark
	}
	return sum - width
}

// fit makes the table fit into width, if that can be. What says nothing goes
// first, then long cells are cut, then columns are left out by their order and
// the headers end in "…" for it. It reports whether it fits.
func (f *fitting) fit(width int) bool {
	for f.over(width) > 0 {
		i := f.empty()
		if i < 0 {
			break
		}
		f.drop(i)
	}
	for !f.cut(width) {
		i := f.first()
		if i < 0 {
			return false
		}
		f.drop(i)
		f.lost = true
		f.measure()
	}
	return true
}

// empty returns the last column without anything below its header, or -1.
func (f *fitting) empty() int {
	for i := len(f.cells) - 1; i >= 0; i-- {
		if !slices.ContainsFunc(f.lines[1:], func(line []string) bool { return strings.TrimSpace(line[i]) != "" }) {
			return i
		}
	}
	return -1
}

// first returns the column that is left out next, or -1.
func (f *fitting) first() int {
	next := -1
	for i, c := range f.cells {
		if c.Gives > 0 && (next < 0 || c.Gives < f.cells[next].Gives) {
			next = i
		}
	}
	return next
}

func (f *fitting) drop(i int) {
	f.cells, f.widths = slices.Delete(f.cells, i, i+1), slices.Delete(f.widths, i, i+1)
	for n := range f.lines {
		f.lines[n] = slices.Delete(slices.Clone(f.lines[n]), i, i+1)
	}
}

// cut takes cells from the widest column that may be cut, one after the other,
// until the table fits; it reports whether it does.
func (f *fitting) cut(width int) bool {
	for f.over(width) > 0 {
		widest := -1
		for i, c := range f.cells {
			if c.Least > 0 && f.widths[i] > max(c.Least, Width(f.lines[0][i])) && (widest < 0 || f.widths[i] > f.widths[widest]) {
				widest = i
			}
		}
		if widest < 0 {
			return false
		}
		f.widths[widest]--
	}
	return true
}

// text is the table.
func (f *fitting) text() string {
	var b strings.Builder
	for n, line := range f.lines {
		var row strings.Builder
		for i, cell := range line {
			if f.cells[i].Middle {
				cell = CutMiddle(cell, f.widths[i])
			}
			cell = Cut(cell, f.widths[i])
			row.WriteString(cell + spaces(f.widths[i]-Width(cell)+narrowGap))
		}
		if n == 0 && f.lost {
			row.WriteString("…")
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	return b.String()
}

// stacked writes each row as lines of its own, for a screen on which no table
// stands: the first cell that stays, then what else there is to say.
func stacked(cells []Cell, lines [][]string, width int) string {
	var b strings.Builder
	head := max(0, slices.IndexFunc(cells, func(c Cell) bool { return c.Gives == 0 }))
	for n, line := range lines[1:] {
		if n > 0 {
			b.WriteString("\n")
		}
		b.WriteString(Cut(strings.TrimSpace(line[head]), width) + "\n")
		for i, cell := range line {
			if cell = strings.TrimSpace(cell); i != head && cell != "" {
				b.WriteString(Cut("  "+lines[0][i]+": "+cell, width) + "\n")
			}
		}
	}
	return b.String()
}
