// Package argv puts a command line in the order that the flag parser reads.
//
// urfave/cli v2 reads flags before arguments only and takes a flag behind an
// argument for an argument, in silence. Docker's users write them in any order.
// So the line is read here first, with each command's flags known: flags are
// moved to the front in the form --name=value, a "--" closes them, arguments
// follow. What is unknown is refused here, in words.
//
// It owns the grammar of the command line and none of its meaning.
//
// Invariant: what Order returns is read by the flag parser without an error,
// but for values that a flag refuses.
package argv

import (
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// Closed reports whether the flags of the command at path ("service create") end
// at its first argument: everything behind it belongs to that argument.
type Closed func(path string) bool

// newLine begins to read args.
func newLine(app *cli.App, closed Closed, args []string) *line {
	return &line{root: newFlags(app.Flags), level: newFlags(app.Flags), subs: app.Commands, closed: closed, rest: args}
}

// Order returns args (without the program's name) in the order the flag parser
// reads. closed may be nil.
func Order(app *cli.App, closed Closed, args []string) ([]string, error) {
	l := newLine(app, closed, args)
	if err := l.read(); err != nil {
		return nil, err
	}
	if l.leaf != nil && l.leaf.ArgsUsage == "" && len(l.args) > 0 && l.leaf.Name != secretive {
		return nil, say.Hinted(say.Misuse("%s: takes no argument, got %q", l.where(), l.args[0]), l.help())
	}
	return l.joined(), nil
}

// secretive is the command that refuses an argument itself: what is given to it is a
// secret, which no error repeats.
const secretive = "unlock"

// A line is a command line being read.
type line struct {
	root, level flags
	subs        []*cli.Command
	closed      Closed
	rest        []string

	leaf      *cli.Command // nil until the path has come to one
	at        *cli.Command // the last of the path
	path      []string
	rootFlags []string
	flags     []string
	args      []string
	shut      bool     // no flag may follow
	wants     cli.Flag // the flag at the end of the line that lacks its value
}

func (l *line) joined() []string {
	out := slices.Concat(l.rootFlags, l.path, l.flags)
	if len(l.args) > 0 {
		out = append(append(out, "--"), l.args...)
	}
	return out
}

func (l *line) read() error {
	for len(l.rest) > 0 {
		token := l.rest[0]
		l.rest = l.rest[1:]
		switch {
		case l.shut || token == "-" || !strings.HasPrefix(token, "-"):
			if err := l.word(token); err != nil {
				return err
			}
		case token == "--":
			l.shut = true
		case token == "--help" || token == "-h":
			l.flags, l.args, l.rest = []string{"--help"}, nil, nil
		default:
			if err := l.flag(token); err != nil {
				return err
			}
		}
	}
	return nil
}

// word takes the next word: a command's name while commands are left, an
// argument afterwards.
func (l *line) word(token string) error {
	if len(l.subs) == 0 {
		l.args = append(l.args, token)
		l.shut = l.shut || l.closed != nil && l.closed(strings.Join(l.path, " "))
		return nil
	}
	if token == "help" {
		l.flags = []string{"--help"}
		return nil
	}
	for _, c := range l.subs {
		if c.HasName(token) {
			if len(l.flags) > 0 {
				return say.Misuse("%s: its flags stand behind its name, and %q before it", strings.Join(append(slices.Clone(l.path), token), " "), l.flags[0])
			}
			l.path = append(l.path, c.Name)
			l.subs = c.Subcommands
			l.level = newFlags(c.Flags)
			l.at = c
			if len(c.Subcommands) == 0 {
				l.leaf = c
			}
			return nil
		}
	}
	if l.at != nil && l.at.ArgsUsage != "" { // it takes an argument as well as a command
		l.leaf, l.subs = l.at, nil
		return l.word(token)
	}
	return l.unknownCommand(token)
}

func (l *line) unknownCommand(token string) error {
	var names []string
	for _, c := range l.subs {
		if !c.Hidden {
			names = append(names, c.Names()...)
		}
	}
	err := say.Misuse("there is no command %q", strings.Join(append(slices.Clone(l.path), token), " "))
	if near, ok := nearest(token, names); ok {
		return say.Hinted(err, "did you mean \""+strings.Join(append(slices.Clone(l.path), near), " ")+"\"?")
	}
	return say.Hinted(err, "\"ctl "+strings.Join(append(slices.Clone(l.path), "--help"), " ")+"\" lists what there is")
}

// where names the place in the command tree, for errors.
func (l *line) where() string {
	if len(l.path) == 0 {
		return "ctl"
	}
	return strings.Join(l.path, " ")
}
