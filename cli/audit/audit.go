// Package audit is "ctl audit": who did what in a swarm, and the proof that
// nothing of it was changed.
//
// It owns the words and columns of records, and the files an export is kept in.
// What is recorded is the managers'; the chain and its verification are
// manager/audit's.
//
// Invariant: an export is written only after it was verified as whole.
package audit

import (
	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// Command returns "ctl audit".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:        "audit",
		Usage:       "show who did what, take it along, and prove that nothing of it was changed",
		Subcommands: []*cli.Command{export(s), ls(s), verify(s)},
	}
}
