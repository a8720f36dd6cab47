package conn

import (
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
)

// find returns the way to a daemon that flags and environment say: hosts that are
// named, a context that is named, a run directory, then the same of the
// environment, then the context in use, then this host's own daemon.
func find(c *cli.Context, s *say.Streams) (*Conn, error) {
	root := Root(c)
	switch {
	case root.String("host") != "":
		return named(c, s, root.String("host"))
	case root.String("context") != "":
		return within(s, root.String("context"))
	case root.String("run-dir") != "":
		dir, err := filepath.Abs(root.String("run-dir"))
		return New(s, []Host{{Path: filepath.Join(dir, socket)}}), err
	case s.Getenv("CTL_HOST") != "":
		return named(c, s, s.Getenv("CTL_HOST"))
	}
	name, err := Chosen(c, s)
	if err != nil {
		return nil, err
	}
	return within(s, name)
}

// Root returns ctl's own flags.
func Root(c *cli.Context) *cli.Context { return c.Lineage()[len(c.Lineage())-2] } // the last one is a nil parent's

// Chosen returns the name of the context that flags and environment say, or else
// of the one in use; wallet.Default is none.
func Chosen(c *cli.Context, s *say.Streams) (string, error) {
	if name := Root(c).String("context"); name != "" {
		return name, nil
	}
	if name := s.Getenv("CTL_CONTEXT"); name != "" {
		return name, nil
	}
	return wallet.Open(s.Getenv).Current()
}

// named is the way to hosts that were named. The context says who one is to those
// on the network.
func named(c *cli.Context, s *say.Streams, list string) (*Conn, error) {
	hosts, err := ParseHosts(list)
	if err != nil {
		return nil, err
	}
	api := New(s, hosts)
	for _, h := range hosts {
		if h.Address == "" {
			continue
		}
		name, err := Chosen(c, s)
		if err != nil || name == wallet.Default {
			return api, err
		}
		who, err := load(s, name)
		if err != nil {
			return nil, err
		}
		return api.Through(Remote{Who: who, Name: name, Keep: keep(s, name)}), nil
	}
	return api, nil
}

// within is the way to the managers of a context.
func within(s *say.Streams, name string) (*Conn, error) {
	if name == wallet.Default {
		return New(s, []Host{{Path: filepath.Join(DefaultRunDir, socket)}}), nil
	}
	who, err := load(s, name)
	if err != nil {
		return nil, err
	}
	return New(s, Managers(who)).Through(Remote{Who: who, Name: name, Grows: true, Keep: keep(s, name)}), nil
}

func load(s *say.Streams, name string) (*wallet.Context, error) {
	who, err := wallet.Open(s.Getenv).Get(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, say.Hinted(say.Misuse("there is no context %q", name), `"ctl context ls" lists them; "--context default" is this host's own daemon`)
	}
	return who, err
}

// keep writes down what is learnt. It is no reason to refuse a command that it
// cannot be written.
func keep(s *say.Streams, name string) func(*wallet.Context) {
	return func(who *wallet.Context) {
		if err := wallet.Open(s.Getenv).Learnt(name, who); err != nil {
			s.Note("the newest list of managers was not kept: %v", err)
		}
	}
}
