package argv

import (
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// A form is what a flag looks like on the line.
type form struct {
	name   string // the first of its names
	valued bool
	hidden bool
	flag   cli.Flag
}

// flags is the forms of one level, by every name.
type flags map[string]form

func newFlags(list []cli.Flag) flags {
	f := flags{}
	for _, flag := range list {
		f.add(flag)
	}
	return f
}

func (f flags) add(flag cli.Flag) {
	names := flag.Names()
	form := form{name: names[0], flag: flag}
	if d, ok := flag.(cli.DocGenerationFlag); ok {
		form.valued = d.TakesValue()
	}
	if v, ok := flag.(cli.VisibleFlag); ok {
		form.hidden = !v.IsVisible()
	}
	for _, n := range names {
		f[n] = form
	}
}

// flag takes the next flag, "--name", "--name=value", "-n", "-nvalue" or "-abn".
func (l *line) flag(token string) error {
	name, value, given := strings.Cut(strings.TrimLeft(token, "-"), "=")
	switch {
	case strings.HasPrefix(token, "---") || name == "":
		return say.Misuse("%s: %q is not a flag", l.where(), token)
	case strings.HasPrefix(token, "--"):
		return l.take(token, name, value, given)
	case len([]rune(name)) == 1:
		return l.take("-"+name, name, value, given)
	default:
		return l.group(token)
	}
}

// group takes several one-letter flags behind one dash; the first that wants a
// value has the rest of the token for it.
func (l *line) group(token string) error {
	letters := []rune(strings.TrimPrefix(token, "-"))
	for i, r := range letters {
		name, tail := string(r), string(letters[i+1:])
		f, _, ok := l.find(name)
		switch {
		case !ok:
			return l.unknownGroup(token, name)
		case f.valued:
			return l.take("-"+name, name, strings.TrimPrefix(tail, "="), tail != "")
		case strings.HasPrefix(tail, "="):
			return l.take("-"+name, name, tail[1:], true)
		}
		if err := l.take("-"+name, name, "", false); err != nil {
			return err
		}
	}
	return nil
}

func (l *line) unknownGroup(token, name string) error {
	long, _, _ := strings.Cut(strings.TrimPrefix(token, "-"), "=")
	err := say.Misuse("%s: there is no flag -%s in %q", l.where(), name, token)
	if _, _, ok := l.find(long); ok {
		return say.Hinted(err, "long flags have two dashes: --"+long)
	}
	return say.Hinted(err, l.help())
}

// find looks at the command's own flags first and at ctl's own afterwards.
func (l *line) find(name string) (f form, root, ok bool) {
	if f, ok := l.level[name]; ok {
		return f, len(l.path) == 0, true
	}
	f, ok = l.root[name]
	return f, true, ok
}

// take puts one flag on the list, with its value from behind the "=" or from
// the next token.
func (l *line) take(token, name, value string, given bool) error {
	f, root, ok := l.find(name)
	if !ok {
		return l.unknownFlag(token, name)
	}
	if f.valued && !given {
		if len(l.rest) == 0 {
			l.wants = f.flag
			return say.Hinted(say.Misuse("%s: flag %s wants a value", l.where(), token), l.help())
		}
		value, l.rest = l.rest[0], l.rest[1:]
	}
	out := "--" + f.name
	if f.valued {
		out += "=" + value
	} else if given {
		yes, err := strconv.ParseBool(value)
		if err != nil {
			return say.Misuse("%s: flag %s is on or off: %q is neither true nor false", l.where(), token, value)
		}
		out += "=" + strconv.FormatBool(yes)
	}
	if root {
		l.rootFlags = append(l.rootFlags, out)
	} else {
		l.flags = append(l.flags, out)
	}
	return nil
}

func (l *line) unknownFlag(token, name string) error {
	var names []string
	for n, f := range l.level {
		if !f.hidden && len(n) > 1 {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	token, _, _ = strings.Cut(token, "=")
	err := say.Misuse("%s: there is no flag %s", l.where(), token)
	if near, ok := nearest(name, names); ok {
		return say.Hinted(err, "did you mean --"+near+"?")
	}
	return say.Hinted(err, l.help())
}

func (l *line) help() string {
	return strconv.Quote(strings.Join(append(append([]string{"ctl"}, l.path...), "--help"), " ")) + " lists the flags there are"
}

// nearest returns the name that is at most two letters away from s, or about a
// third of its length.
func nearest(s string, names []string) (best string, found bool) {
	least := min(3, len(s)/3+2)
	for _, n := range names {
		if d := distance(s, n); d < least {
			best, least, found = n, d, true
		}
	}
	return best, found
}

// distance is the number of letters to add, drop or change to make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
