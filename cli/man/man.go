// Package man writes the manual pages of ctl, one for each command, from the
// commands themselves.
//
// It owns what a page looks like in roff. What it says is the commands': names,
// usages, arguments, flags with their defaults, descriptions.
//
// Invariant: every command and every flag that help shows is on a page, and
// nothing that help hides.
package man

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"unicode"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/show"
)

// A Page is one manual page.
type Page struct {
	// Name is "ctl-service-create", Section 1, or 8 for the daemon.
	Name    string
	Section int
	// Text is the page in roff.
	Text string
}

// File is the page's name on a disk.
func (p Page) File() string { return fmt.Sprintf("%s.%d", p.Name, p.Section) }

// sectionOf is where the page of a command is looked for.
func sectionOf(name string) int {
	if name == "ctl-daemon" {
		return 8
	}
	return 1
}

// Source is what a page says of where it comes from.
type Source struct {
	// Version of ctl and Date of it, as 2006-01-02.
	Version, Date string
}

// Pages returns the pages of app and its commands.
func Pages(app *cli.App, from Source) ([]Page, error) {
	root := &cli.Command{
		Name: app.Name, Usage: app.Usage, ArgsUsage: "COMMAND", Flags: app.Flags, Subcommands: app.Commands,
		Description: "ctl talks to the daemon of this host (see ctl-daemon(8)) and by it to the swarm. " +
			"Flags may stand before and behind arguments; ctl's own stand anywhere. A \"--\" ends them.",
	}
	var pages []Page
	var write func(c *cli.Command, path []string) error
	write = func(c *cli.Command, path []string) error {
		if c.Hidden {
			return nil
		}
		path = append(slices.Clone(path), c.Name)
		p, err := newPage(c, path, from)
		if err != nil {
			return err
		}
		pages = append(pages, p)
		for _, sub := range c.Subcommands {
			if err := write(sub, path); err != nil {
				return err
			}
		}
		return nil
	}
	return pages, write(root, nil)
}

// Write puts the pages into dir, each where man looks for it: man1/ctl.1.
func Write(dir string, pages []Page) error {
	for _, p := range pages {
		at := filepath.Join(dir, fmt.Sprintf("man%d", p.Section), p.File())
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(p.Text), 0o644); err != nil { //nolint:gosec // a manual is for everybody
			return err
		}
	}
	return nil
}

// option is a flag as a page shows it, in roff.
type option struct{ Names, Says string }

// entry is another page, or an exit code, and what it is, in roff.
type entry struct{ Name, Says string }

type content struct {
	Title, Name, Usage, Synopsis string
	Section                      int
	From                         Source
	Description                  []string
	Commands                     []entry
	Options                      []option
	Root                         bool
	SeeAlso                      []string
}

func newPage(c *cli.Command, path []string, from Source) (Page, error) {
	name := strings.Join(path, "-")
	p := content{
		Title: strings.ToUpper(name), Name: escape(name), Section: sectionOf(name), From: from, Usage: escape(c.Usage),
		Synopsis: synopsis(c, path), Root: len(path) == 1, Description: description(c),
	}
	if !p.Root {
		p.SeeAlso = append(p.SeeAlso, reference(strings.Join(path[:len(path)-1], "-")))
	}
	for _, sub := range c.Subcommands {
		if !sub.Hidden {
			p.Commands = append(p.Commands, entry{reference(name + "-" + sub.Name), escape(sub.Usage)})
		}
	}
	for _, f := range c.Flags {
		if o, ok := newOption(f); ok {
			p.Options = append(p.Options, o)
		}
	}
	var b strings.Builder
	if err := page.Execute(&b, p); err != nil {
		return Page{}, fmt.Errorf("manual page %s: %w", name, err)
	}
	return Page{Name: name, Section: p.Section, Text: b.String()}, nil
}

func synopsis(c *cli.Command, path []string) string {
	text := `\fB` + escape(strings.Join(path, " ")) + `\fR`
	if len(c.Flags) > 0 {
		text += ` [\fIOPTION\fR...]`
	}
	if len(c.Subcommands) > 0 && c.ArgsUsage == "" {
		text += ` \fICOMMAND\fR`
	}
	if c.ArgsUsage != "" {
		text += " " + escape(c.ArgsUsage)
	}
	return text
}

// description is paragraphs.
func description(c *cli.Command) []string {
	if c.Description == "" {
		return []string{escape(show.Title(c.Usage) + ".")}
	}
	var out []string
	for line := range strings.Lines(c.Description) {
		out = append(out, escape(strings.TrimSpace(line)))
	}
	return out
}

func newOption(f cli.Flag) (option, bool) {
	d, documented := f.(cli.DocGenerationFlag)
	if v, ok := f.(cli.VisibleFlag); !documented || ok && !v.IsVisible() {
		return option{}, false
	}
	before, rest, marked := strings.Cut(d.GetUsage(), "`")
	value, after, _ := strings.Cut(rest, "`")
	says := escape(before)
	if marked {
		says += `\fI` + escape(value) + `\fR` + escape(after)
	} else {
		value = "VALUE"
	}
	var names []string
	for _, n := range slices.Backward(f.Names()) { // the short one first
		dashes := "--"
		if len(n) == 1 {
			dashes = "-"
		}
		name := `\fB` + escape(dashes+n) + `\fR`
		if d.TakesValue() {
			name += ` \fI` + escape(value) + `\fR`
		}
		names = append(names, name)
	}
	if says = strings.TrimSuffix(says, ".") + "."; says == "." {
		says = "Not described."
	}
	if text := d.GetDefaultText(); text != "" && d.TakesValue() {
		says += " Default: " + escape(strings.Trim(text, `"`)) + "."
	}
	if s, ok := f.(cli.DocGenerationSliceFlag); ok && s.IsSliceFlag() {
		says += " May be given several times."
	}
	return option{strings.Join(names, ", "), says}, true
}

// reference names another page.
func reference(name string) string { return fmt.Sprintf(`\fB%s\fR(%d)`, escape(name), sectionOf(name)) }

// escape makes text mean itself in roff.
func escape(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`).Replace(s)
	if strings.HasPrefix(s, ".") {
		s = `\&` + s
	}
	return s
}

var page = template.Must(template.New("page").Parse(`.\" Written by "ctl man" from the commands themselves.
.TH {{.Title}} {{.Section}} {{.From.Date}} "Skep {{.From.Version}}" "Skep Manual"
.SH NAME
{{.Name}} \- {{.Usage}}
.SH SYNOPSIS
{{.Synopsis}}
.SH DESCRIPTION
{{- range $i, $text := .Description}}
{{- if $i}}
.PP{{end}}
{{$text}}
{{- end}}
{{- if .Commands}}
.SH COMMANDS
{{- range .Commands}}
.TP
{{.Name}}
{{.Says}}
{{- end}}
{{- end}}
{{- if .Options}}
.SH OPTIONS
{{- range .Options}}
.TP
{{.Names}}
{{.Says}}
{{- end}}
{{- end}}
.SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
Refused: it was understood and is not done.
.TP
.B 2
Misused: the command line makes no sense.
.TP
.B 3
Unreachable: nobody answered.
.TP
.B 4
Partly: it is done, and some were left behind.
.TP
.B 5
Overdue: it goes on, later than it was to be over.
{{- if .Root}}
.SH ENVIRONMENT
.TP
.B CTL_HOST
Where the daemon is, if neither \fB\-\-host\fR nor \fB\-\-run\-dir\fR says so.
.SH FILES
.TP
.I /run/skep/ctl.sock
The socket of the daemon.
{{- else}}
.SH SEE ALSO
{{- range .SeeAlso}}
{{.}}
{{- end}}
{{- end}}
`))
