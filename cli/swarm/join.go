package swarm

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	tokenHint    = `a manager prints one with "ctl swarm join-token worker"`
	maxTokenSize = 4096
)

func join(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "join",
		Usage:     "join a swarm",
		ArgsUsage: "HOST[:PORT]...",
		Flags: append(addressFlags(),
			&cli.StringFlag{Name: "token", Usage: "the join `TOKEN`; other users of this host can see it, --token-file hides it"},
			&cli.StringFlag{Name: "token-file", Usage: "`FILE` that holds the token (-: standard input)"},
			conn.TimeoutFlag(conn.ForMembership),
		),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			req, err := joinRequest(s, c)
			if err != nil {
				return err
			}
			api.Waiting("a manager at %s to let this node join", strings.Join(req.GetRemotes(), ", "))
			api.Background("ctl info")
			resp, err := joinAndShow(ctx, api, req)
			if err == nil && len(resp.GetPendingKey()) > 0 {
				resp, err = awaitAcceptance(ctx, api, req, resp)
			}
			if err != nil {
				return err
			}
			if resp.GetReturned() {
				return s.Data("This node was a member already and is in touch with the managers again. Its containers run on.")
			}
			if resp.GetRole() == modelv1.Role_ROLE_MANAGER {
				return s.Data("This node joined a swarm as a manager.")
			}
			return s.Data("This node joined a swarm as a worker.")
		}),
	}
}

func joinRequest(s *say.Streams, c *cli.Context) (*localv1.JoinRequest, error) {
	if err := refuse(c, map[string]string{"data-path-addr": "overlay networks are"}); err != nil {
		return nil, err
	}
	if !c.Args().Present() {
		return nil, say.Hinted(say.Misuse("swarm join: no manager given"), `"ctl swarm join --token TOKEN HOST:2377"`)
	}
	remotes, err := remotes(c.Args().Slice())
	if err != nil {
		return nil, err
	}
	a, err := availability(c)
	if err != nil {
		return nil, err
	}
	token, err := readToken(s, c)
	if err != nil {
		return nil, err
	}
	return &localv1.JoinRequest{
		Token:         token,
		Remotes:       remotes,
		AdvertiseAddr: c.String("advertise-addr"),
		ListenAddr:    c.String("listen-addr"),
		Availability:  a,
	}, nil
}

// remotes reads addresses of managers; a missing port is the default one.
func remotes(args []string) ([]string, error) {
	var out []string
	for _, arg := range args {
		for one := range strings.SplitSeq(arg, ",") {
			host, port, err := net.SplitHostPort(one)
			if err != nil {
				host, port = strings.Trim(one, "[]"), DefaultPort
			}
			if host == "" || port == "" || strings.ContainsAny(host, "/ ") {
				return nil, say.Misuse("swarm join: address %q: want HOST:PORT", one)
			}
			out = append(out, net.JoinHostPort(host, port))
		}
	}
	return out, nil
}

// readToken returns the token's text if it is one. No error quotes it.
func readToken(s *say.Streams, c *cli.Context) (string, error) {
	text := c.String("token")
	switch file := c.String("token-file"); {
	case file != "" && text != "":
		return "", say.Misuse("swarm join: --token and --token-file exclude each other")
	case file == "-":
		data, err := io.ReadAll(io.LimitReader(s.In, maxTokenSize))
		if err != nil {
			return "", say.Hinted(err, tokenHint)
		}
		text = string(data)
	case file != "":
		data, err := os.ReadFile(file)
		if err != nil {
			return "", say.Misuse("join: token: %v", err)
		}
		text = string(data)
	case text == "":
		return "", say.Hinted(say.Misuse("join: no token given"), tokenHint)
	}
	text = strings.TrimSpace(text)
	if _, err := ca.ParseToken(text); err != nil {
		return "", say.Hinted(say.Misuse("join: %v", err), tokenHint)
	}
	return text, nil
}

// awaitAcceptance asks again until an operator has decided. Whoever ends it ends
// this command only: the daemon waits on.
func awaitAcceptance(ctx context.Context, api *conn.Conn, req *localv1.JoinRequest, resp *localv1.JoinResponse) (*localv1.JoinResponse, error) {
	key, err := ca.DigestFromBytes(resp.GetPendingKey())
	if err != nil {
		return nil, err
	}
	s := api.Streams()
	s.Note("This node (%s) waits for an operator to accept it, until %s. Its key is\n\n    %s\n",
		show.ShortID(resp.GetNode()), moment(resp.GetPendingUntil()), key.Fingerprint())
	s.Note(`An operator sees the same key in "ctl node inspect --pretty %s", and lets it in with "ctl node accept %s".`,
		show.ShortID(resp.GetNode()), show.ShortID(resp.GetNode()))
	s.Note(`The daemon waits by itself, also if this command is interrupted: "ctl info" shows it.`)
	api.Waiting("an operator to accept this node")
	for len(resp.GetPendingKey()) > 0 {
		if err := api.Pause(ctx); err != nil {
			return nil, err
		}
		if resp, err = conn.Ask(ctx, api, localv1.LocalClient.Join, req); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// joinAndShow joins and, on a terminal, shows what the daemon is at meanwhile.
func joinAndShow(ctx context.Context, api *conn.Conn, req *localv1.JoinRequest) (*localv1.JoinResponse, error) {
	width, tty := api.Streams().Terminal()
	if !tty {
		return conn.Ask(ctx, api, localv1.LocalClient.Join, req)
	}
	if _, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{}); err != nil {
		return nil, err // opens the connection before two goroutines use it
	}
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { showJoining(watching, api, &progress.Screen{W: api.Streams().Err, Width: width}) })
	resp, err := conn.Ask(ctx, api, localv1.LocalClient.Join, req)
	stop()
	wg.Wait()
	return resp, err
}

// showJoining draws the daemon's state until ctx ends, and takes it away again.
func showJoining(ctx context.Context, api *conn.Conn, screen *progress.Screen) {
	defer screen.Draw(nil)
	for api.Pause(ctx) == nil {
		info, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
		if err != nil {
			continue
		}
		text := "joining: " + stateWord(info.GetState())
		if info.GetError() != "" {
			text += ": " + info.GetError()
		}
		screen.Draw([]progress.Line{{Text: text}})
	}
}

func stateWord(s localv1.State) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "STATE_"))
}
