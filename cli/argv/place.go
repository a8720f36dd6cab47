package argv

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// A Place is somewhere on a command line: what was written before it, and so what
// may be written there.
type Place struct {
	// Commands may follow by name; none when the command is complete.
	Commands []*cli.Command
	// Leaf is the command the line calls; nil while its name is not complete.
	Leaf *cli.Command
	// Flags may follow: the command's, then ctl's own, without those that are
	// given already and may be given once. None where everything belongs to an
	// argument.
	Flags []cli.Flag
	// Value is the flag whose value is to follow, and nothing else; mostly nil.
	Value cli.Flag
	// Args are the arguments given so far.
	Args []string
	// Root are ctl's own flags given so far, in the form --name=value.
	Root []string
}

// At returns the place behind words (without the program's name). ok is false
// behind words that mean nothing.
func At(app *cli.App, closed Closed, words []string) (p Place, ok bool) {
	l := newLine(app, closed, words)
	if err := l.read(); err != nil && l.wants == nil {
		return Place{}, false
	}
	p = Place{Commands: l.subs, Leaf: l.leaf, Value: l.wants, Args: l.args, Root: l.rootFlags}
	if !l.shut {
		p.Flags = slices.Concat(l.open(l.level, l.flags), l.open(l.root, l.rootFlags))
		if len(l.path) == 0 { // the level is ctl itself
			p.Flags = l.open(l.root, l.rootFlags)
		}
	}
	return p, true
}

// open returns the flags of a level that may be given still, by name.
func (l *line) open(level flags, given []string) []cli.Flag {
	var out []cli.Flag
	for name, f := range level {
		if name != f.name || f.hidden {
			continue // an alias; or nothing to be told of
		}
		slice, _ := f.flag.(cli.DocGenerationSliceFlag)
		again := slice != nil && slice.IsSliceFlag()
		if again || !slices.ContainsFunc(given, func(g string) bool { n, _, _ := strings.Cut(g, "="); return n == "--"+f.name }) {
			out = append(out, f.flag)
		}
	}
	slices.SortFunc(out, func(a, b cli.Flag) int { return strings.Compare(a.Names()[0], b.Names()[0]) })
	return out
}
