package completion

import (
	"context"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/argv"
)

// A Completer knows ctl's commands.
type Completer struct {
	// App returns the commands.
	App func() *cli.App
	// Closed is that of the command line.
	Closed argv.Closed
	// Ask runs a command of ctl's and returns its output; "" if it has none in a
	// short time.
	Ask func(ctx context.Context, args ...string) string
}

// A Kind says how a shell treats an answer.
type Kind string

// The kinds of answers.
const (
	Words Kind = "words" // the words that follow
	Files Kind = "files" // names of files, which the shell knows better
	Dirs  Kind = "dirs"  // names of directories
)

// A Word may be written at the cursor. One that ends in "=" or ":" is to be gone
// on with, so no space follows it.
type Word struct {
	Text string
	// Says is what it does, in a few words; may be empty.
	Says string
}

// An Offer is what may be written at the cursor.
type Offer struct {
	Kind  Kind
	Words []Word
}

// String is the offer as the scripts read it: the kind, then a word on each line,
// a tab before what it says.
func (o Offer) String() string {
	var b strings.Builder
	b.WriteString(string(o.Kind) + "\n")
	for _, w := range o.Words {
		b.WriteString(line(w.Text))
		if w.Says != "" {
			b.WriteString("\t" + line(w.Says))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// line is s without what would end a line or a field.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }

// Complete returns what may be written in place of the last of words (without
// the program's name). ok is false where nothing can be said.
func (c Completer) Complete(ctx context.Context, words []string) (o Offer, ok bool) {
	if len(words) == 0 {
		words = []string{""}
	}
	typed := words[len(words)-1]
	place, ok := argv.At(c.App(), c.Closed, words[:len(words)-1])
	if !ok {
		return Offer{}, false
	}
	q := question{Completer: c, ctx: ctx, place: place, typed: typed}
	o = q.offer()
	o.Words = slices.DeleteFunc(o.Words, func(w Word) bool { return !strings.HasPrefix(w.Text, typed) || w.Text == "" })
	return o, o.Kind != Words || len(o.Words) > 0
}

// A question is one place on one command line.
type question struct {
	Completer
	ctx   context.Context
	place argv.Place
	typed string
}

func (q question) offer() Offer {
	name, value, given := strings.Cut(q.typed, "=")
	switch {
	case q.place.Value != nil:
		return q.value(q.place.Value, "", q.typed)
	case strings.HasPrefix(q.typed, "--") && given && len(q.place.Flags) > 0:
		for _, f := range q.place.Flags {
			if slices.Contains(f.Names(), name[2:]) {
				return q.value(f, name+"=", value)
			}
		}
		return Offer{Kind: Words}
	case strings.HasPrefix(q.typed, "-"):
		return Offer{Kind: Words, Words: flagWords(q.place.Flags)}
	case q.place.Leaf == nil:
		return Offer{Kind: Words, Words: commandWords(q.place.Commands)}
	}
	return q.argument()
}

// flagWords are flags by their long names.
func flagWords(flags []cli.Flag) []Word {
	var out []Word
	for _, f := range flags {
		if d, ok := f.(cli.DocGenerationFlag); ok {
			out = append(out, Word{Text: "--" + f.Names()[0], Says: plain(d.GetUsage())})
		}
	}
	return out
}

func commandWords(commands []*cli.Command) []Word {
	var out []Word
	for _, c := range commands {
		if !c.Hidden {
			out = append(out, Word{Text: c.Name, Says: c.Usage})
		}
	}
	return out
}

// plain is a usage without the marks of its placeholder.
func plain(usage string) string { return strings.ReplaceAll(usage, "`", "") }
