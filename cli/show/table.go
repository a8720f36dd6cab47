// Package show turns objects into what is read on a screen or by a script:
// tables, Go templates, JSON, the pretty form, ages and short ids.
//
// It owns columns, templates and their alignment; which columns an object has is
// the verb's. It reads no clock and talks to nobody.
//
// Invariant: what "--format json" and inspect print is stable and only grows.
package show

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/template"

	"github.com/skep-project/skep/cli/say"
)

// A Column is one field of a row: what templates call it and what stands above it.
type Column struct {
	Field, Header string
}

// A Row is the fields of one object.
type Row map[string]any

// A Table lists objects of one kind.
type Table struct {
	// Columns is every field a template may use.
	Columns []Column
	// Default is the table that is shown when nothing is asked.
	Default []Cell
	// Quiet is the field that -q prints.
	Quiet string
}

// Look is what the flags of a list say about its look.
type Look struct {
	// Format is "", "table", "table TEMPLATE", "json" or a template.
	Format string
	Quiet  bool
	// Width is that of the terminal the list is read on; 0: it is read on none,
	// and nothing is cut or left out. It matters for the default table only.
	Width int
}

// Print writes rows to w as look says.
func (t Table) Print(w io.Writer, look Look, rows []Row) error {
	switch {
	case look.Quiet:
		return t.lines(w, "{{."+t.Quiet+"}}", rows)
	case look.Format == "" && look.Width > 0:
		return t.fitted(w, look.Width, rows)
	case look.Format == "" || look.Format == "table":
		return t.table(w, t.whole(), rows)
	case strings.HasPrefix(look.Format, "table "):
		return t.table(w, strings.TrimSpace(strings.TrimPrefix(look.Format, "table ")), rows)
	case look.Format == "json":
		return jsonLines(w, rows)
	default:
		return t.lines(w, look.Format, rows)
	}
}

func (t Table) lines(w io.Writer, format string, rows []Row) error {
	tpl, err := t.parse(format)
	if err != nil {
		return err
	}
	for _, row := range rows {
		text, err := execute(tpl, row)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

// whole is the template of the default table where there is room for it.
func (t Table) whole() string { return t.template(func(c Cell) string { return c.Text }) }

func (t Table) template(text func(Cell) string) string {
	var cells []string
	for _, c := range t.Default {
		cells = append(cells, text(c))
	}
	return strings.Join(cells, "\t")
}

func (t Table) table(w io.Writer, format string, rows []Row) error {
	lines, err := t.rendered(format, rows)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, Align(lines))
	return err
}

// rendered returns the headers and the rows as a template makes them.
func (t Table) rendered(format string, rows []Row) ([]string, error) {
	tpl, err := t.parse(format)
	if err != nil {
		return nil, err
	}
	headers := Row{}
	for _, c := range t.Columns {
		headers[c.Field] = c.Header
	}
	lines := make([]string, 0, len(rows)+1)
	for _, row := range append([]Row{headers}, rows...) {
		text, err := execute(tpl, row)
		if err != nil {
			return nil, err
		}
		lines = append(lines, text)
	}
	return lines, nil
}

// fitted prints the default table so that it can be read on a screen of width
// cells: whole if it fits, else narrower, else a few lines for each row.
func (t Table) fitted(w io.Writer, width int, rows []Row) error {
	lines, err := t.rendered(t.whole(), rows)
	if err != nil {
		return err
	}
	text := Align(lines)
	if slices.ContainsFunc(strings.Split(text, "\n"), func(line string) bool { return Width(line) > width }) {
		if lines, err = t.rendered(t.template(func(c Cell) string { return cmp.Or(c.Short, c.Text) }), rows); err != nil {
			return err
		}
		cells := make([][]string, 0, len(lines))
		for _, line := range lines {
			cells = append(cells, strings.Split(line, "\t"))
		}
		if f := newFitting(t.Default, slices.Clone(cells)); f.fit(width) {
			text = f.text()
		} else {
			text = stacked(t.Default, cells, width)
		}
	}
	_, err = io.WriteString(w, text)
	return err
}

// parse reads a template and refuses fields that the table does not have, before
// anything is printed.
func (t Table) parse(format string) (*template.Template, error) {
	tpl, err := Template(format)
	if err != nil {
		return nil, err
	}
	probe := Row{}
	var names []string
	for _, c := range t.Columns {
		probe[c.Field] = ""
		names = append(names, "."+c.Field)
	}
	if _, err := execute(tpl, probe); err != nil && strings.Contains(err.Error(), "map has no entry") {
		return nil, say.Hinted(err, "fields are "+strings.Join(names, " "))
	}
	return tpl, nil
}

// Template reads a template as Docker's users write it: \t and \n stand for tab
// and newline, and json, join, split, lower, upper, title, pad, truncate and
// println are known.
func Template(format string) (*template.Template, error) {
	format = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
	tpl, err := template.New("").Option("missingkey=error").Funcs(funcs).Parse(format)
	if err != nil {
		return nil, say.Misuse("format: %s", strings.TrimPrefix(err.Error(), "template: :"))
	}
	return tpl, nil
}

func execute(tpl *template.Template, value any) (string, error) {
	var b bytes.Buffer
	if err := tpl.Execute(&b, value); err != nil {
		return "", say.Misuse("format: %s", strings.TrimPrefix(err.Error(), "template: :"))
	}
	return b.String(), nil
}

var funcs = template.FuncMap{
	"json":     toJSON,
	"join":     strings.Join,
	"split":    strings.Split,
	"lower":    strings.ToLower,
	"upper":    strings.ToUpper,
	"title":    Title,
	"pad":      func(s string, before, after int) string { return spaces(before) + s + spaces(after) },
	"truncate": func(s string, n int) string { return string([]rune(s)[:max(0, min(n, len([]rune(s))))]) },
	"println":  fmt.Sprintln,
}

func spaces(n int) string { return strings.Repeat(" ", max(0, min(n, 1000))) }

func toJSON(v any) (string, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func jsonLines(w io.Writer, rows []Row) error {
	for _, row := range rows {
		text, err := toJSON(row)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}
