package walkthrough

import (
	"fmt"
	"regexp"
	"strings"
)

// A table is what a list command printed: rows of cells by their header.
type table []map[string]string

var header = regexp.MustCompile(`\S+(?: \S+)*`)

// parseTable reads aligned columns: a header is words with one space between
// them, and a cell lies between where its header and the next one begin.
func parseTable(text string) table {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	heads := header.FindAllStringIndex(lines[0], -1)
	var all table
	for _, line := range lines[1:] {
		letters, row := []rune(line), map[string]string{}
		for i, h := range heads {
			end := len(letters)
			if i+1 < len(heads) {
				end = min(end, heads[i+1][0])
			}
			if h[0] < end {
				row[lines[0][h[0]:h[1]]] = strings.TrimSpace(string(letters[h[0]:end]))
			} else {
				row[lines[0][h[0]:h[1]]] = ""
			}
		}
		all = append(all, row)
	}
	return all
}

// where returns the rows whose cell in a column begins with text.
func (t table) where(column, text string) (some table) {
	for _, row := range t {
		if strings.HasPrefix(row[column], text) {
			some = append(some, row)
		}
	}
	return some
}

// one returns the only row whose cell in a column is text.
func (t table) one(column, text string) (map[string]string, error) {
	var found []map[string]string
	for _, row := range t {
		if row[column] == text {
			found = append(found, row)
		}
	}
	if len(found) != 1 {
		return nil, fmt.Errorf("%d rows have %s %q, want 1", len(found), column, text)
	}
	return found[0], nil
}

// cells holds a row to the cells wanted, given as column, text, column, text.
func cells(row map[string]string, want ...string) error {
	for i := 0; i+1 < len(want); i += 2 {
		if got := row[want[i]]; got != want[i+1] {
			return fmt.Errorf("%s of %s is %q, want %q", want[i], row["HOSTNAME"]+row["NAME"], got, want[i+1])
		}
	}
	return nil
}
