package show

import (
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ListFlags are the flags of a list that has no filters.
func ListFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "format", Usage: "table, \"table `TEMPLATE`\", json or a template"},
		&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show ids only"},
	}
}

// ListFlags are the flags of a list with these filters.
func (k Filters) ListFlags() []cli.Flag {
	keys := k.keys()
	last := len(keys) - 1
	return append([]cli.Flag{&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, KeepSpace: true,
		Usage: "`KEY=VALUE` that what is shown must meet; KEY is " + strings.Join(keys[:last], ", ") + " or " + keys[last]}}, ListFlags()...)
}

// TaskFlags are the flags of a list of tasks with these filters.
func (k Filters) TaskFlags() []cli.Flag {
	return append(k.ListFlags(),
		&cli.BoolFlag{Name: "no-resolve", Usage: "show ids in place of names"},
		&cli.BoolFlag{Name: "no-trunc", Usage: "show ids, images and errors whole"})
}

// LookOf reads the look of a list. What is not to be cut is not fitted to the
// terminal either.
func LookOf(s *say.Streams, c *cli.Context) Look {
	l := Look{Format: c.String("format"), Quiet: c.Bool("quiet")}
	if !c.Bool("no-trunc") {
		l.Width = s.Width()
	}
	return l
}

// TaskLookOf reads the look of a list of tasks.
func TaskLookOf(c *cli.Context) TaskLook {
	return TaskLook{Whole: c.Bool("no-trunc"), IDs: c.Bool("no-resolve"), Marked: c.String("format") != "json"}
}

// InspectFlags are the flags of inspect.
func InspectFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "json or a `TEMPLATE`"},
		&cli.BoolFlag{Name: "pretty", Usage: "show what people read"},
	}
}

// CheckInspect refuses flags that exclude each other.
func CheckInspect(c *cli.Context) error {
	if c.Bool("pretty") && c.String("format") != "" {
		return say.Misuse("%s: --pretty and --format exclude each other", say.Path(c.Command.HelpName))
	}
	return nil
}

// Filters is which filters a list knows: the key and what it narrows.
type Filters map[string]func(f *controlv1.Filter, value string) bool

// The filters there are.
var (
	byID    = func(f *controlv1.Filter, v string) bool { f.Ids = append(f.Ids, v); return v != "" }
	byName  = func(f *controlv1.Filter, v string) bool { f.Names = append(f.Names, v); return v != "" }
	byLabel = func(f *controlv1.Filter, v string) bool { f.Labels = append(f.Labels, v); return v != "" }
	byNode  = func(f *controlv1.Filter, v string) bool { f.Nodes = append(f.Nodes, v); return v != "" }

	// Nodes are the filters of "node ls".
	Nodes = Filters{"id": byID, "name": byName, "label": byLabel, "role": byRole, "membership": byMembership,
		"node.label": func(f *controlv1.Filter, v string) bool { f.NodeLabels = append(f.NodeLabels, v); return v != "" }}
	// Services are those of "service ls".
	Services = Filters{"id": byID, "name": byName, "label": byLabel, "mode": byMode}
	// ServiceTasks are those of "service ps".
	ServiceTasks = Filters{"id": byID, "name": byName, "node": byNode, "desired-state": byDesired}
	// NodeTasks are those of "node ps".
	NodeTasks = Filters{"id": byID, "name": byName, "label": byLabel, "desired-state": byDesired}
)

// keys returns the names of the filters, sorted.
func (k Filters) keys() []string { return slices.Sorted(maps.Keys(k)) }

// Read returns the filter that --filter asks for.
func (k Filters) Read(c *cli.Context) (*controlv1.Filter, error) {
	f := &controlv1.Filter{}
	for _, text := range c.StringSlice("filter") {
		if err := k.narrow(f, say.Path(c.Command.HelpName), text); err != nil {
			return nil, err
		}
	}
	return f, nil
}

// narrow adds to f what one --filter of a command says.
func (k Filters) narrow(f *controlv1.Filter, command, text string) error {
	key, value, ok := strings.Cut(text, "=")
	key = strings.ToLower(strings.TrimSpace(key))
	take, known := k[key]
	switch {
	case !known:
		return say.Hinted(say.Misuse("%s: there is no filter %q", command, key), "filters are "+strings.Join(k.keys(), ", "))
	case !ok:
		return say.Misuse("%s: filter %q: want %s=VALUE", command, text, key)
	case !take(f, strings.TrimSpace(value)):
		return say.Misuse("%s: filter %q: this value means nothing here", command, text)
	}
	return nil
}

func byRole(f *controlv1.Filter, v string) bool {
	r, ok := modelv1.Role_value["ROLE_"+strings.ToUpper(v)]
	f.Roles = append(f.Roles, modelv1.Role(r))
	return ok && r != 0
}

func byMembership(f *controlv1.Filter, v string) bool {
	m, ok := modelv1.Membership_value["MEMBERSHIP_"+strings.ToUpper(v)]
	f.Memberships = append(f.Memberships, modelv1.Membership(m))
	return ok && m != 0
}

func byMode(f *controlv1.Filter, v string) bool {
	f.Modes = append(f.Modes, v)
	return v == "replicated" || v == "global"
}

// byDesired: "running" means all that should still run, as in Swarm.
func byDesired(f *controlv1.Filter, v string) bool {
	s, ok := taskstate.Parse(strings.ToLower(v))
	f.Desired = append(f.Desired, s)
	return ok
}
