package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func export(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "export",
		Usage: "write the whole audit trail, signed by the swarm's CA, one JSON object a line",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Value: "-", Usage: "`FILE` to write to; - is standard output"},
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "replace a file that is there"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.Endless(s, func(ctx context.Context, c *cli.Context, api *conn.Conn, limit time.Duration) error {
			path := c.String("output")
			if err := free(path, c.Bool("force")); err != nil {
				return err
			}
			data, err := fetch(ctx, api, limit)
			if err != nil {
				return err
			}
			report, err := audit.Verify(bytes.NewReader(data), nil)
			if err != nil {
				return fmt.Errorf("what the manager gave is not whole: %w", err)
			}
			if path == "-" {
				_, err := s.Out.Write(data)
				return err
			}
			if err := write(path, data); err != nil {
				return err
			}
			by := "the CA"
			if len(report.Seal.Manager) > 0 {
				by = "a manager that the CA has certified"
			}
			return s.Data("Wrote records %d to %d, sealed by %s.", report.First, report.Last, by)
		}),
	}
}

// free refuses a file that is there already.
func free(path string, force bool) error {
	if path == "-" || force {
		return nil
	}
	switch _, err := os.Lstat(path); {
	case err == nil:
		return say.Hinted(say.Misuse("audit export: %s is there already", path), "--force replaces it")
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return say.Misuse("audit export: %v", err)
	}
}

// write replaces a file whole; it is its owner's only.
func write(path string, data []byte) error {
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return errors.Join(durable.WriteFile(dir, filepath.Base(path), data), dir.Close())
}

// fetch returns an export. One that a manager's end cut short is begun anew.
func fetch(ctx context.Context, api *conn.Conn, limit time.Duration) ([]byte, error) {
	var out bytes.Buffer
	var to *audit.Export
	var of audit.Seal
	whole := false
	err := conn.Follow(ctx, api, controlv1.ControlClient.ReadAudit, &controlv1.ReadAuditRequest{Export: true}, limit, conn.Listener[controlv1.ReadAuditResponse]{
		Begin: func() { out.Reset() },
		Take: func(m *controlv1.ReadAuditResponse) error {
			if h := m.GetHead(); h != nil {
				of = audit.Seal{Cluster: show.ID(h.GetCluster()), History: show.ID(h.GetHistory())}
				to = audit.NewExport(&out, audit.Head{Cluster: of.Cluster, History: of.History, Roots: h.GetRoots()})
			}
			if to == nil {
				return errors.New("the manager's answer does not begin as an export does")
			}
			for _, line := range m.GetLines() {
				to.Line(line)
			}
			v := m.GetSeal()
			if v == nil {
				return nil
			}
			if len(v.GetHash()) != sha256.Size || len(v.GetRoot()) != sha256.Size {
				return errors.New("the manager's seal has no hash")
			}
			of.Seq, of.Hash, of.At, of.Root, of.Signature = v.GetSeq(), audit.Hash(v.GetHash()), time.Unix(0, v.GetAt()), audit.Hash(v.GetRoot()), v.GetSignature()
			of.Manager, whole = v.GetManager(), true
			return to.End(&of)
		},
	})
	if err == nil && !whole {
		err = errors.New("the manager ended the export before its end")
	}
	return out.Bytes(), err
}
