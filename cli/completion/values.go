package completion

import (
	"regexp"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// value returns what a flag's value may be. before is what stands on the line in
// the same word and is not the value's.
func (q question) value(f cli.Flag, before, typed string) Offer {
	d, ok := f.(cli.DocGenerationFlag)
	if !ok || !d.TakesValue() {
		return Offer{Kind: Words, Words: with(before, words("true", "false"))}
	}
	switch usage := d.GetUsage(); {
	case strings.Contains(usage, "`FILE`") && before == "":
		return Offer{Kind: Files}
	case strings.Contains(usage, "`DIR`") && before == "":
		return Offer{Kind: Dirs}
	case f.Names()[0] == "filter":
		return Offer{Kind: Words, Words: with(before, q.filter(usage, typed))}
	case f.Names()[0] == "format":
		return Offer{Kind: Words, Words: with(before, words("json"))}
	default:
		return Offer{Kind: Words, Words: with(before, words(choices(usage)...))}
	}
}

// enumeration is how a usage says what there is to choose from: "a, b or c", at
// its beginning.
var enumeration = regexp.MustCompile(`^((?:[a-z-]+, )*)([a-z-]+) or ([a-z-]+)(?:$| \(|[;:])`)

// choices returns what a usage says there is to choose from.
func choices(usage string) []string {
	m := enumeration.FindStringSubmatch(usage)
	if m == nil {
		return nil
	}
	return append(strings.FieldsFunc(m[1], func(r rune) bool { return r == ',' || r == ' ' }), m[2], m[3])
}

// keyed is how a usage says which keys a filter has.
var keyed = regexp.MustCompile(`KEY is ((?:[a-z.-]+, )*[a-z.-]+(?: or [a-z.-]+)?)`)

// filter returns the keys of a filter, and of those that have few values these.
func (q question) filter(usage, typed string) []Word {
	key, _, given := strings.Cut(typed, "=")
	m := keyed.FindStringSubmatch(usage)
	if m == nil {
		return nil
	}
	keys := strings.FieldsFunc(strings.ReplaceAll(m[1], " or ", ","), func(r rune) bool { return r == ',' || r == ' ' })
	if !given {
		var out []Word
		for _, k := range keys {
			out = append(out, Word{Text: k + "="})
		}
		return out
	}
	if !slices.Contains(keys, key) {
		return nil
	}
	switch key {
	case "role":
		return with("role=", words("worker", "manager"))
	case "mode":
		return with("mode=", words("replicated", "global"))
	case "membership":
		return with("membership=", words("accepted", "pending"))
	case "desired-state":
		return with("desired-state=", words("running", "shutdown", "accepted"))
	case "node":
		return with("node=", q.names("NODE", false))
	}
	return nil
}

// argument returns what the next argument may be, as the command's usage of
// arguments says: alternatives, of which those in capitals name a kind of thing.
func (q question) argument() Offer {
	if q.place.Leaf.ArgsUsage == "" {
		return Offer{Kind: Words}
	}
	kinds := strings.Fields(q.place.Leaf.ArgsUsage)
	at := len(q.place.Args)
	last := strings.Trim(kinds[len(kinds)-1], "[]")
	switch {
	case at < len(kinds):
	case strings.HasSuffix(last, "..."):
		at = len(kinds) - 1
	default:
		return Offer{Kind: Words}
	}
	o := Offer{Kind: Words}
	for kind := range strings.SplitSeq(strings.TrimSuffix(strings.Trim(kinds[at], "[]"), "..."), "|") {
		name, _, assigned := strings.Cut(kind, "=")
		switch {
		case name == "FILE":
			o.Kind = Files
		case name == "DIR":
			o.Kind = Dirs
		case name == strings.ToLower(name):
			o.Words = append(o.Words, Word{Text: kind})
		default:
			o.Words = append(o.Words, q.names(name, assigned)...)
		}
	}
	o.Words = slices.DeleteFunc(o.Words, func(w Word) bool { return slices.Contains(q.place.Args, w.Text) })
	return o
}

// names asks for the names of the things of a kind: NODE is what "ctl node ls"
// lists. assigned: something is to follow each, behind a "=". Ids are offered to
// who has begun to type one.
func (q question) names(kind string, assigned bool) []Word {
	noun, field := strings.ToLower(kind), "Name"
	if kind == "NODE" {
		field = "Hostname"
	}
	lists := slices.ContainsFunc(q.App().Commands, func(c *cli.Command) bool {
		return c.Name == noun && slices.ContainsFunc(c.Subcommands, func(c *cli.Command) bool { return c.Name == "ls" })
	})
	if !lists {
		return nil
	}
	format := "{{." + field + "}}"
	if kind == "NODE" || kind == "SERVICE" {
		format += "\t{{.ID}}"
	}
	after := ""
	if assigned {
		after = "="
	}
	var out []Word
	for text := range strings.Lines(q.Ask(q.ctx, slices.Concat(q.place.Root, []string{noun, "ls", "--format", format})...)) {
		name, id, _ := strings.Cut(strings.TrimRight(text, "\n"), "\t")
		out = append(out, Word{Text: name + after, Says: id})
		if q.typed != "" && id != "" && !strings.HasPrefix(name, q.typed) {
			out = append(out, Word{Text: id + after, Says: name})
		}
	}
	return out
}

func words(texts ...string) []Word {
	var out []Word
	for _, t := range texts {
		out = append(out, Word{Text: t})
	}
	return out
}

// with puts before in front of each word.
func with(before string, list []Word) []Word {
	for i := range list {
		list[i].Text = before + list[i].Text
	}
	return list
}
