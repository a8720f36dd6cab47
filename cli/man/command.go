package man

import (
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/version"
)

// Command returns "ctl man"; app returns the commands that it writes about.
func Command(s *say.Streams, app func() *cli.App) *cli.Command {
	return &cli.Command{
		Name:      "man",
		Usage:     "write the manual pages into a directory",
		ArgsUsage: "DIR",
		Description: "DIR gets man1 and man8, as in /usr/local/share/man. " +
			"A package has them there already; this is for a binary that came without one.",
		Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return say.Misuse("man: want one directory, got %d", c.Args().Len())
			}
			pages, err := Pages(app(), Source{Version: version.Version, Date: built(s)})
			if err != nil {
				return err
			}
			return Write(c.Args().First(), pages)
		},
	}
}

// built is the day of the commit that this ctl was built from; today where the
// build does not say.
func built(s *say.Streams) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, setting := range info.Settings {
			if setting.Key == "vcs.time" && len(setting.Value) >= len("2006-01-02") {
				return setting.Value[:len("2006-01-02")]
			}
		}
	}
	return s.Now().UTC().Format("2006-01-02")
}
