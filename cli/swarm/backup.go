package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/manager/backup"
	"github.com/skep-project/skep/manager/backup/seal"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

func save(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "backup",
		Usage:     "save the whole swarm in one sealed file",
		ArgsUsage: "FILE|-",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "recipient", Aliases: []string{"r"}, Usage: "age `KEY` (age1…) whose owner can open it; may be given more than once"},
			&cli.StringSliceFlag{Name: "recipients-file", Aliases: []string{"R"}, Usage: "`FILE` of such keys, one a line"},
			passphraseFlag(),
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "replace a file that is there"},
			&cli.BoolFlag{Name: "stale", Usage: "save what this manager has, without asking the others"},
			conn.TimeoutFlag(conn.ForTasks),
		},
		Subcommands: []*cli.Command{verify(s)},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			return takeBackup(ctx, s, c, api)
		}),
	}
}

// takeBackup looks at all that was typed before it asks for the state.
func takeBackup(ctx context.Context, s *say.Streams, c *cli.Context, api *conn.Conn) error {
	path, err := backupPath(c)
	if err != nil {
		return err
	}
	out, err := sinkFor(s, path, c.Bool("force"))
	if err != nil {
		return err
	}
	defer out.drop()
	info, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
	if err != nil {
		return err
	}
	lock, err := lockOf(ctx, s, c, info.GetFipsRequired())
	if err != nil {
		return err
	}
	api.Waiting("the daemon to give the swarm's state")
	daemon, err := conn.Local(ctx, api)
	if err != nil {
		return err
	}
	stream, err := daemon.Backup(ctx, &localv1.BackupRequest{Stale: c.Bool("stale")})
	if err != nil {
		return err
	}
	count := &counter{w: out}
	im, err := receive(stream, lock, count)
	if err != nil {
		return err
	}
	if err := out.keep(); err != nil {
		return err
	}
	return saved(s, path, im, count.n)
}

// receive seals what the daemon gives on its way to out, and reads it at the same
// time as a restore would: what it returns is what the file holds.
func receive(stream grpc.ServerStreamingClient[localv1.BackupResponse], lock seal.Lock, out io.Writer) (*backup.Image, error) {
	closing, err := lock.Close(out)
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	var im *backup.Image
	var rerr error
	var reading sync.WaitGroup
	reading.Go(func() {
		im, rerr = backup.Read(r)
		r.CloseWithError(errors.Join(rerr, io.ErrClosedPipe)) // the writer need not go on
	})
	err = copyOut(stream, io.MultiWriter(closing, w))
	w.CloseWithError(err) // nil is the end
	reading.Wait()
	switch {
	case err != nil && (rerr == nil || !errors.Is(err, rerr)):
		return nil, err
	case rerr != nil:
		return nil, fmt.Errorf("what the daemon gave is no backup: %w", rerr)
	}
	return im, closing.Close()
}

func copyOut(stream grpc.ServerStreamingClient[localv1.BackupResponse], w io.Writer) error {
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(m.GetData()); err != nil {
			return err
		}
	}
}

// counter counts what is written.
type counter struct {
	w io.Writer
	n int64
}

// Write writes p.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// saved says what was saved; beside a backup that goes to standard output, aside.
func saved(s *say.Streams, path string, im *backup.Image, size int64) error {
	m := im.Manifest
	if m.GetStale() {
		s.Warn("the other managers were not asked: what they committed since this one heard them is not in it")
	}
	for _, fault := range im.Check(s.Now()) {
		s.Warn("the state contradicts itself, and so does the backup: " + fault)
	}
	text := fmt.Sprintf("Saved the swarm at index %d: %s; %s, sealed.", m.GetIndex(), contents(im), show.Bytes(size))
	if path == "-" {
		s.Note("%s", text)
		return nil
	}
	return s.Data("%s", text)
}

// contents counts what people count.
func contents(im *backup.Image) string {
	n := im.Manifest.GetCounts()
	return fmt.Sprintf("%s (%s), %s, %s", many(n.GetNodes(), "node"), many(n.GetMembers(), "manager"), many(n.GetServices(), "service"), many(n.GetTasks(), "task"))
}

func many(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// moment is a time as people and programs read it.
func moment(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }
