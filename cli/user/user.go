// Package user is "ctl user": the people and jobs that may call a swarm from
// elsewhere.
//
// It owns the words and columns of users, and makes their keys, which never leave
// the client but in the file it writes. What a role allows is the managers' to
// say.
package user

import (
	"crypto/ecdsa"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/wallet"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Command returns "ctl user".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "user",
		Usage:       "say who may use a swarm from elsewhere",
		Subcommands: []*cli.Command{create(s), inspect(s), ls(s), renew(s), rm(s)},
	}
}

// needUsers refuses a command line without a user.
func needUsers(c *cli.Context) error {
	if !c.Args().Present() {
		return say.Hinted(say.Misuse("%s: no user given", say.Path(c.Command.HelpName)), `"ctl user ls" lists them`)
	}
	return nil
}

func parseRole(c *cli.Context) (modelv1.UserRole, error) {
	r, ok := modelv1.UserRole_value["USER_ROLE_"+strings.ToUpper(c.String("role"))]
	if !ok || r == 0 {
		return 0, say.Misuse("--role %q: want viewer, operator, rotator or admin", c.String("role"))
	}
	return modelv1.UserRole(r), nil
}

func ttlFlag() cli.Flag {
	return &cli.DurationFlag{Name: "ttl", Usage: "`TIME` a certificate lives (default: 8h, or as it was)"}
}

func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "`FILE` to write the context to; it must not be there yet (default: standard output)"}
}

// draw draws a key and a request for its certificate.
func draw() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ca.NewKey()
	if err != nil {
		return nil, nil, err
	}
	csr, err := ca.NewCSR(key)
	return key, csr, err
}

// An output is where a context goes: a file that was made before anything was
// asked for, so that an answer is not lost for want of a place, or standard
// output.
type output struct {
	s    *say.Streams
	dir  *os.Root
	name string // in dir
	path string // as it was typed
	kept bool
}

func openOutput(s *say.Streams, path string) (*output, error) {
	if path == "" || path == "-" {
		return &output{s: s}, nil
	}
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	o := &output{s: s, dir: dir, name: filepath.Base(path), path: path}
	f, err := dir.OpenFile(o.name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, errors.Join(say.Hinted(fmt.Errorf("write %s: %w", path, err), "name a file that is not there, in a directory that is"), dir.Close())
	}
	return o, f.Close()
}

// close takes the file away again if nothing came of it.
func (o *output) close() {
	if o.dir == nil {
		return
	}
	if !o.kept {
		_ = o.dir.Remove(o.name) // it is empty
	}
	_ = o.dir.Close() // nothing is lost with it
}

// write writes what was issued for key.
func (o *output) write(issued *controlv1.IssuedUser, key *ecdsa.PrivateKey) error {
	who, err := wallet.New(issued, key, time.Now())
	if err != nil {
		return err
	}
	data, err := who.Marshal()
	if err != nil {
		return err
	}
	until := who.Credential.Identity.NotAfter.UTC().Format(time.RFC3339)
	if o.dir == nil {
		_, err := o.s.Out.Write(data)
		return err
	}
	if err := durable.WriteFile(o.dir, o.name, data); err != nil {
		return err
	}
	o.kept = true
	o.s.Note("user %s (%s) until %s; whoever has %s is %s: ctl context create NAME --from %s", who.Name(), rpc.RoleName(who.Role), until, o.path, who.Name(), o.path)
	return nil
}
