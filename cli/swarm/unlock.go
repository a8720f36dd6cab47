package swarm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/sealed"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

func unlock(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "unlock",
		Usage: "give a locked manager its unlock key",
		Description: "The key is asked for at the terminal, and not shown; without one it is the first line of standard input. " +
			"It is no argument: other users of the machine can read those.",
		Flags: []cli.Flag{conn.TimeoutFlag(conn.ForMembership)},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			if c.Args().Present() {
				return say.Hinted(say.Misuse("swarm unlock: the key is no argument: other users of this machine can read those, and what the shell remembers"),
					"give it at the prompt or on standard input, and rotate it with: ctl swarm unlock-key --rotate")
			}
			if err := awaitsKey(ctx, api); err != nil {
				return err
			}
			key, err := readUnlockKey(ctx, s)
			if err != nil {
				return err
			}
			api.Waiting("the manager to start")
			_, err = conn.Ask(ctx, api, localv1.LocalClient.Unlock, &localv1.UnlockRequest{UnlockKey: string(key.Reveal())})
			return err
		}),
	}
}

// awaitsKey refuses before anybody types a key for nothing.
func awaitsKey(ctx context.Context, api *conn.Conn) error {
	info, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
	switch {
	case err != nil:
		return err
	case info.GetState() == localv1.State_STATE_LOCKED:
		return nil
	case info.GetState() == localv1.State_STATE_INACTIVE:
		return errors.New("this node is not part of a swarm")
	}
	return errors.New("this node is not locked")
}

// readUnlockKey asks at the terminal, else reads a line of standard input. What is
// no key is refused here.
func readUnlockKey(ctx context.Context, s *say.Streams) (sealed.Secret, error) {
	text, err := askUnlockKey(ctx, s)
	if err != nil {
		return text, err
	}
	if _, err := sealed.ParseUnlockKey(text); err != nil {
		return text, say.Hinted(say.Misuse("%v", err), `a manager that is not locked shows it with "ctl swarm unlock-key"`)
	}
	return text, nil
}

func askUnlockKey(ctx context.Context, s *say.Streams) (sealed.Secret, error) {
	if f, piped := s.In.(*os.File); s.Ask != nil && (!piped || isTerminal(f)) {
		key, err := s.Ask(ctx, "Unlock key: ")
		if err == nil || ctx.Err() != nil {
			return key, err
		}
	}
	line, err := bufio.NewReader(io.LimitReader(s.In, sealed.MaxUnlockText+1)).ReadBytes('\n')
	defer clear(line)
	if err != nil && !errors.Is(err, io.EOF) {
		return sealed.Secret{}, fmt.Errorf("read the unlock key: %w", err)
	}
	if len(bytes.TrimSpace(line)) == 0 {
		return sealed.Secret{}, say.Hinted(say.Misuse("swarm unlock: no key on standard input, and no terminal to ask at"), "ctl swarm unlock < FILE")
	}
	return sealed.NewSecret(line), nil
}

func unlockKey(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "unlock-key",
		Usage: "show or change what locked managers are unlocked with",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show the key only"},
			&cli.BoolFlag{Name: "rotate", Usage: "make a new key; managers that are up seal their keys under it at once"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			key, behind, err := getUnlockKey(ctx, api, c.Bool("rotate"))
			if err != nil {
				return err
			}
			if c.Bool("quiet") {
				return s.Data("%s", key)
			}
			if c.Bool("rotate") {
				if err := s.Data("Successfully rotated manager unlock key.\n"); err != nil {
					return err
				}
			}
			if err := tellUnlockKey(s, key); err != nil {
				return err
			}
			switch {
			case c.Bool("rotate"):
				s.Warn("keep the former key until \"ctl swarm unlock-key\" names no manager that still opens with it")
			case len(behind) > 0:
				s.Warn("these managers still open with a former key, until they have heard of this one: " + strings.Join(behind, ", "))
			}
			return nil
		}),
	}
}

func getUnlockKey(ctx context.Context, api *conn.Conn, rotate bool) (key string, behind []string, err error) {
	if rotate {
		resp, err := conn.Change(ctx, api, controlv1.ControlClient.RotateUnlockKey, &controlv1.RotateUnlockKeyRequest{RequestId: conn.RequestID()})
		return resp.GetUnlockKey(), nil, err
	}
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetUnlockKey, &controlv1.GetUnlockKeyRequest{})
	return resp.GetUnlockKey(), resp.GetBehind(), err
}

// tellUnlockKey says what an unlock key is for.
func tellUnlockKey(s *say.Streams, key string) error {
	_, err := fmt.Fprintf(s.Out, `To unlock a manager after its daemon has started, run 'ctl swarm unlock' there and give it this key:

    %s

Keep it in a safe place that is on none of the managers: without it no manager that is locked starts again.

`, key)
	return err
}
