package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// restoreChunk is how many bytes of a backup a message holds.
const restoreChunk = 64 << 10

func restore(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "found a lost swarm again from a backup, with this node as its only manager",
		ArgsUsage: "FILE|-",
		Flags: append(append(addressFlags(), openFlags()...),
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "restore even if managers of the swarm answer, or this node has a newer log of it"},
			conn.TimeoutFlag(conn.ForTasks)),
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			opts, err := restoreOptions(c)
			if err != nil {
				return err
			}
			file, err := openBackup(ctx, s, c)
			if err != nil {
				return err
			}
			api.Waiting("the daemon to restore the swarm")
			api.Background("ctl info")
			resp, err := send(ctx, api, opts, file)
			if err := errors.Join(err, file.Close()); err != nil {
				return err
			}
			return restored(s, resp)
		}),
	}
}

func restoreOptions(c *cli.Context) (*localv1.RestoreOptions, error) {
	if err := refuse(c, map[string]string{"data-path-addr": "overlay networks are"}); err != nil {
		return nil, err
	}
	opts := &localv1.RestoreOptions{AdvertiseAddr: c.String("advertise-addr"), Force: c.Bool("force")}
	if c.IsSet("listen-addr") { // a node that stays itself keeps its own
		opts.ListenAddr = c.String("listen-addr")
	}
	if c.IsSet("availability") {
		a, err := availability(c)
		if err != nil {
			return nil, err
		}
		opts.Availability = a
	}
	return opts, nil
}

// send gives the daemon the open backup. The daemon's word goes before ctl's own:
// it may refuse before all is sent.
func send(ctx context.Context, api *conn.Conn, opts *localv1.RestoreOptions, file io.Reader) (*localv1.RestoreResponse, error) {
	daemon, err := conn.Local(ctx, api)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	stream, err := daemon.Restore(ctx)
	if err != nil {
		return nil, err
	}
	req := &localv1.RestoreRequest{Options: opts}
	buf := make([]byte, restoreChunk)
	for {
		n, rerr := io.ReadFull(file, buf)
		req.Data = buf[:n]
		serr := stream.Send(req)
		req = &localv1.RestoreRequest{}
		switch {
		case errors.Is(serr, io.EOF), serr == nil && (errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF)):
			return stream.CloseAndRecv()
		case serr != nil:
			return nil, serr
		case rerr != nil:
			return nil, rerr // the stream is cut off with it: nothing was restored
		}
	}
}

// restored says what came up and what is to be done with the other nodes.
func restored(s *say.Streams, resp *localv1.RestoreResponse) error {
	m, n := resp.GetManifest(), resp.GetManifest().GetCounts()
	s.Warnings(resp.GetFaults())
	if len(resp.GetAnswered()) > 0 {
		s.Warn("managers of the swarm answered at " + strings.Join(resp.GetAnswered(), ", ") +
			": there are two swarms with one id now; stop those daemons before anything else")
	}
	as := "a new node of it and its only manager"
	if resp.GetKeptIdentity() {
		as = "the node it was, and its only manager"
	}
	_, err := fmt.Fprintf(s.Out, `Swarm restored: current node (%s) is %s.

It is as it was at %s (index %d): %s and %s; ids, tokens and the CA are the same.
What was changed after that is lost: look at "ctl service ls", and rotate join tokens that were rotated since.

`, show.ID(resp.GetNode()), as, moment(m.GetLogTime()), m.GetIndex(), many(n.GetServices(), "service"), many(n.GetTasks(), "task"))
	if err != nil || resp.GetOthers() == 0 {
		return err
	}
	token := resp.GetWorkerToken()
	if token == "" { // there are no standing ones: one is made for them
		token = "TOKEN"
		s.Note(`The swarm has no standing tokens: TOKEN below is what "ctl swarm token create -q --role worker --uses %d" prints here.`, resp.GetOthers())
	}
	_, err = fmt.Fprintf(s.Out, `%s

    ctl swarm join --token %s %s

A node that is not back when its lease ends is Down, and its tasks are started elsewhere.
Those that are gone for good are removed with "ctl node rm".

`, waits(resp.GetOthers(), resp.GetKeptIdentity()), token, resp.GetAddress())
	return err
}

// waits says what the other nodes know of this one, and what to do about it.
func waits(others uint32, kept bool) string {
	if kept {
		return fmt.Sprintf("Other nodes (%d) find this one by themselves at the address they know. On one that does not, run the\nfollowing command; it stays the node it was and its containers run on:", others)
	}
	return fmt.Sprintf("Other nodes (%d) do not know where their manager is now. On each that is still there, run\nthe following command; it stays the node it was and its containers run on:", others)
}
