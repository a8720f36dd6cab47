package show

import "strings"

// Cells of a table stand this far apart, and are at least this wide.
const (
	gap      = 3
	minWidth = 7
)

// Align puts the tab-separated cells of lines under one another. It counts the
// cells of the screen rather than letters, so that names in Hangul or Kanji keep
// the columns straight. No line ends in a space.
func Align(lines []string) string {
	var widths []int
	for _, line := range lines {
		for i, cell := range strings.Split(line, "\t") {
			if i == len(widths) {
				widths = append(widths, minWidth)
			}
			widths[i] = max(widths[i], Width(cell))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		b.WriteString(strings.TrimRight(alignLine(line, widths), " "))
		b.WriteByte('\n')
	}
	return b.String()
}

func alignLine(line string, widths []int) string {
	var b strings.Builder
	for i, cell := range strings.Split(line, "\t") {
		b.WriteString(cell)
		b.WriteString(spaces(widths[i] - Width(cell) + gap))
	}
	return b.String()
}

// Width returns how many cells of a screen s takes.
func Width(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}

// runeWidth knows the wide blocks of Unicode coarsely: Hangul, Han, Kana, full
// width forms and pictures take two cells, combining marks none.
func runeWidth(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case r <= 0x36f, r == 0x200b, r == 0x200d, r >= 0xfe00 && r <= 0xfe0f:
		return 0
	case r >= 0x1100 && r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60,
		r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Cut returns s in at most width cells, the last of them "…" if something was
// left out.
func Cut(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	n := 0
	for i, r := range s {
		if n += runeWidth(r); n > width-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// CutMiddle is Cut that leaves out what is in the middle of s.
func CutMiddle(s string, width int) string {
	if Width(s) <= width {
		return s
	}
	runes := []rune(s)
	tail, cells := len(runes), 0
	for tail > 0 && cells+runeWidth(runes[tail-1]) <= (width-1)/2 {
		tail--
		cells += runeWidth(runes[tail])
	}
	head := Cut(s, width-cells)
	return head + string(runes[tail:])
}
