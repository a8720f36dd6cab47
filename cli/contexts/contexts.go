// Package contexts is "ctl context": who one is, in which swarm.
//
// It owns the words and columns of contexts. Where they lie and what is in one is
// the wallet's; it asks no manager anything.
package contexts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/rpc"
)

// Command returns "ctl context".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "context",
		Usage:       "keep who you are in swarms elsewhere",
		Subcommands: []*cli.Command{create(s, "create"), export(s), create(s, "import"), ls(s), rm(s), showOne(s), use(s)},
	}
}

// one returns the one name a command line holds.
func one(c *cli.Context) (string, error) {
	if c.Args().Len() != 1 {
		return "", say.Hinted(say.Misuse("%s: name one context", say.Path(c.Command.HelpName)), `"ctl context ls" lists them`)
	}
	return c.Args().First(), nil
}

// missing says so if there is no context of a name.
func missing(name string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return say.Hinted(fmt.Errorf("there is no context %q", name), `"ctl context ls" lists them`)
	case errors.Is(err, fs.ErrExist):
		return say.Hinted(fmt.Errorf("there is a context %q already", name), "choose another name, or remove it first: ctl context rm "+name)
	}
	return err
}

// create keeps a context of a file: "create" and, as others know it, "import".
func create(s *say.Streams, name string) *cli.Command {
	return &cli.Command{
		Name:      name,
		Usage:     `keep what "ctl user create" or "ctl context export" wrote`,
		ArgsUsage: map[string]string{"create": "NAME", "import": "NAME FILE|-"}[name],
		Flags:     map[string][]cli.Flag{"create": {&cli.StringFlag{Name: "from", Usage: "`FILE` to read, - is standard input"}}}[name],
		Action: func(c *cli.Context) error {
			from, args := c.String("from"), c.Args().Len()
			if name == "import" {
				from, args = c.Args().Get(1), args-1
			}
			if args != 1 || from == "" {
				return say.Hinted(say.Misuse("context %s: name the context and the file it comes from", name),
					`an admin of the swarm writes one: ctl user create USER -o FILE`)
			}
			called := c.Args().First()
			if err := wallet.CheckName(called); err != nil {
				return say.Misuse("%v", err)
			}
			data, err := read(s, from)
			if err != nil {
				return err
			}
			who, err := wallet.Parse(data)
			if err != nil {
				return say.Hinted(fmt.Errorf("%s: %w", from, err), `an admin of the swarm writes one: ctl user create USER -o FILE`)
			}
			if err := wallet.Open(s.Getenv).Add(called, who); err != nil {
				return missing(called, err)
			}
			return s.Data("%s", called)
		},
	}
}

func read(s *say.Streams, from string) ([]byte, error) {
	in := s.In
	if from != "-" {
		f, err := os.Open(from)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, wallet.MaxBytes+1))
}

func export(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "export",
		Usage:     "write a context, key and all, for another machine",
		ArgsUsage: "NAME [FILE|-]",
		Action: func(c *cli.Context) error {
			if c.Args().Len() < 1 || c.Args().Len() > 2 {
				return say.Misuse("context export: name the context and, if you like, the file to write")
			}
			name, to := c.Args().First(), c.Args().Get(1)
			who, err := wallet.Open(s.Getenv).Get(name)
			if err != nil {
				return missing(name, err)
			}
			data, err := who.Marshal()
			if err != nil {
				return err
			}
			if to == "" || to == "-" {
				_, err := s.Out.Write(data)
				return err
			}
			f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			_, werr := f.Write(data)
			return errors.Join(werr, f.Sync(), f.Close())
		},
	}
}

var table = show.Table{
	Columns: []show.Column{
		{Field: "Name", Header: "NAME"}, {Field: "Current"}, {Field: "User", Header: "USER"}, {Field: "Role", Header: "ROLE"},
		{Field: "Cluster", Header: "CLUSTER"}, {Field: "Expires", Header: "EXPIRES"}, {Field: "Managers", Header: "MANAGERS"},
		{Field: "Error", Header: "ERROR"},
	},
	Default: []show.Cell{
		{Text: "{{.Name}}{{if .Current}} *{{end}}"},
		{Text: "{{.User}}"},
		{Text: "{{.Role}}"},
		{Text: "{{.Cluster}}"},
		{Text: "{{.Expires}}"},
		{Text: "{{.Managers}}"},
		{Text: "{{.Error}}"},
	},
	Quiet: "Name",
}

func ls(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:    "ls",
		Aliases: []string{"list"},
		Usage:   "list the contexts; * is the one in use",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Usage: "table, \"table `TEMPLATE`\", json or a template"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show names only"},
		},
		Action: func(c *cli.Context) error {
			store := wallet.Open(s.Getenv)
			names, err := store.List()
			if err != nil {
				return err
			}
			chosen, err := conn.Chosen(c, s)
			if err != nil {
				return err
			}
			rows := []show.Row{{"Name": wallet.Default, "Current": chosen == wallet.Default, "User": "", "Role": "", "Cluster": "", "Expires": "",
				"Managers": "unix://" + conn.DefaultRunDir + "/ctl.sock", "Error": ""}}
			for _, name := range names {
				rows = append(rows, row(s, store, name, chosen == name))
			}
			return table.Print(s.Out, show.LookOf(s, c), rows)
		},
	}
}

// row is a context in the list. One that cannot be read is shown with the reason.
func row(s *say.Streams, store *wallet.Store, name string, current bool) show.Row {
	out := show.Row{"Name": name, "Current": current, "User": "", "Role": "", "Cluster": "", "Expires": "", "Managers": "", "Error": ""}
	who, err := store.Get(name)
	if err != nil {
		out["Error"] = err.Error()
		return out
	}
	id := who.Credential.Identity
	out["User"], out["Role"], out["Cluster"] = id.Name, rpc.RoleName(who.Role), id.Cluster.Short()
	out["Expires"] = "in " + show.Age(id.NotAfter.Sub(s.Now()))
	if s.Now().After(id.NotAfter) {
		out["Expires"] = "expired"
	}
	out["Managers"] = strings.Join(addresses(who), ",")
	return out
}

func addresses(who *wallet.Context) (out []string) {
	for _, m := range who.Managers.GetManagers() {
		out = append(out, m.GetAddress())
	}
	return out
}

// object is a context as show prints it, without its key; the set only grows.
type object struct {
	Name       string
	Current    bool
	User       string
	Role       string
	ClusterID  string
	RootDigest string
	Generation uint64
	NotAfter   time.Time
	Managers   []string
	ListedAt   time.Time
}

func showOne(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "show",
		Aliases:   []string{"inspect"},
		Usage:     "show a context without its key; without a name, the one in use",
		ArgsUsage: "[NAME]",
		Flags:     []cli.Flag{&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "json or a `TEMPLATE`"}},
		Action: func(c *cli.Context) error {
			chosen, err := conn.Chosen(c, s)
			if err != nil {
				return err
			}
			name := chosen
			if c.Args().Present() {
				if name, err = one(c); err != nil {
					return err
				}
			}
			if name == wallet.Default {
				return show.Inspect(s.Out, c.String("format"), []object{{Name: name, Current: chosen == name}})
			}
			who, err := wallet.Open(s.Getenv).Get(name)
			if err != nil {
				return missing(name, err)
			}
			id := who.Credential.Identity
			return show.Inspect(s.Out, c.String("format"), []object{{
				Name: name, Current: chosen == name, User: id.Name, Role: rpc.RoleName(who.Role), ClusterID: id.Cluster.String(),
				RootDigest: fmt.Sprintf("%x", ca.RootDigest(who.Credential.Roots.DER()[0])), Generation: id.Generation,
				NotAfter: id.NotAfter.UTC(), Managers: addresses(who), ListedAt: who.ListedAt.UTC(),
			}})
		},
	}
}

func rm(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "rm",
		Aliases:   []string{"remove"},
		Usage:     "forget contexts; the users in the swarm stay",
		ArgsUsage: "NAME...",
		Action: func(c *cli.Context) error {
			if !c.Args().Present() {
				_, err := one(c)
				return err
			}
			var errs []error
			for _, name := range c.Args().Slice() {
				if err := wallet.Open(s.Getenv).Remove(name); err != nil {
					errs = append(errs, missing(name, err))
					continue
				}
				if err := s.Data("%s", name); err != nil {
					return err
				}
			}
			return errors.Join(errs...)
		},
	}
}

func use(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "use",
		Usage:     `make a context the one commands use; "default" is this host's own daemon`,
		ArgsUsage: "NAME",
		Action: func(c *cli.Context) error {
			name, err := one(c)
			if err != nil {
				return err
			}
			if err := wallet.Open(s.Getenv).Use(name); err != nil {
				return missing(name, err)
			}
			if over := s.Getenv("CTL_HOST") + s.Getenv("CTL_CONTEXT"); over != "" {
				s.Warn("CTL_HOST or CTL_CONTEXT is set and comes before the context in use")
			}
			return s.Data("%s", name)
		},
	}
}
