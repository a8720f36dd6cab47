package audit

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/manager/audit"
)

func verify(s *say.Streams) *cli.Command {
	online := conn.Endless(s, func(ctx context.Context, c *cli.Context, api *conn.Conn, limit time.Duration) error {
		roots, err := readRoots(c)
		if err != nil {
			return err
		}
		data, err := fetch(ctx, api, limit)
		if err != nil {
			return err
		}
		return judge(s, "the swarm's audit trail", bytes.NewReader(data), roots)
	})
	return &cli.Command{
		Name:      "verify",
		Usage:     "check that no record was changed, left out or added; of a file no daemon is asked",
		ArgsUsage: "[FILE|-]",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "root", Usage: "`FILE` of certificates (PEM) to trust; without it those are trusted that the export holds"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: func(c *cli.Context) error {
			switch c.Args().Len() {
			case 0:
				return online(c)
			case 1:
				return offline(s, c)
			}
			return say.Misuse("audit verify: name one file, or none to check what the managers have")
		},
	}
}

func offline(s *say.Streams, c *cli.Context) error {
	roots, err := readRoots(c)
	if err != nil {
		return err
	}
	path := c.Args().First()
	if path == "-" {
		return judge(s, "standard input", s.In, roots)
	}
	f, err := os.Open(path)
	if err != nil {
		return say.Misuse("audit verify: %v", err)
	}
	return errors.Join(judge(s, path, f, roots), f.Close())
}

// readRoots reads the certificates that --root names.
func readRoots(c *cli.Context) (roots [][]byte, err error) {
	path := c.String("root")
	if path == "" {
		return nil, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, say.Misuse("audit verify: %v", err)
	}
	if roots = rootsIn(text); len(roots) == 0 {
		return nil, say.Misuse("audit verify: --root %s holds no certificate", path)
	}
	return roots, nil
}

// rootsIn are the certificates of a text in PEM, DER.
func rootsIn(text []byte) (roots [][]byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return roots
		}
		if block.Type == "CERTIFICATE" {
			roots = append(roots, block.Bytes)
		}
	}
}

// judge says what an export is, or what is wrong with it.
func judge(s *say.Streams, name string, in io.Reader, roots [][]byte) error {
	r, err := audit.Verify(in, roots)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	text := fmt.Sprintf("Whole: records %d to %d of swarm %s, sealed %s.", r.First, r.Last, r.Cluster, r.Seal.At.UTC().Format(time.RFC3339))
	if r.Last == 0 {
		text = fmt.Sprintf("Whole: no records of swarm %s, sealed %s.", r.Cluster, r.Seal.At.UTC().Format(time.RFC3339))
	}
	if r.Dropped > 0 {
		text += fmt.Sprintf("\nThe swarm itself dropped the %d before them.", r.Dropped)
	}
	if n := r.Checkpoints + r.Former; n > 0 {
		text += fmt.Sprintf("\nCheckpoints: %d", n)
		if r.Former > 0 {
			text += fmt.Sprintf(", %d of them signed under roots that are not at hand; the seal covers what they did", r.Former)
		}
		text += "."
	}
	text += fmt.Sprintf("\nSigned under the root with SHA-256 %s", r.Seal.Root)
	if len(r.Seal.Manager) > 0 {
		text += ", by a manager that it certifies: the root's key is at an external CA"
	}
	text += "."
	if err := s.Data("%s", text); err != nil {
		return err
	}
	if roots == nil {
		s.Note("that root came with the records: compare it with one you trust, or name that with --root")
	}
	return nil
}
