package cli

import (
	"context"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/version"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// versions is what "ctl version" knows. The names are Docker's; the set only
// grows.
type versions struct {
	Client clientVersion
	Server *serverVersion `json:",omitempty"`
}

type clientVersion struct {
	Version, GoVersion, Os, Arch string
	FeatureLevel                 uint32
}

type serverVersion struct {
	Version string
	Runtime string `json:",omitempty"`
}

func versionCommand(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "show the versions of ctl and of the daemon",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "json or a `TEMPLATE`"},
			conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			v := versions{Client: clientVersion{version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, version.FeatureLevel}}
			info, missing := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
			if missing == nil {
				v.Server = &serverVersion{info.GetVersion(), info.GetRuntime()}
			}
			if err := printVersions(s, c.String("format"), v); err != nil {
				return err
			}
			if missing != nil {
				s.Note("server: %v", missing) // ctl's own version was shown all the same
			}
			return nil
		}),
	}
}

func printVersions(s *say.Streams, format string, v versions) error {
	if format != "" {
		return show.One(s.Out, format, v)
	}
	sheet := &show.Sheet{}
	sheet.Block("Client", func(b *show.Sheet) {
		b.Field("Version", v.Client.Version)
		b.Field("Go version", v.Client.GoVersion)
		b.Field("OS/Arch", v.Client.Os+"/"+v.Client.Arch)
	})
	if v.Server != nil {
		sheet.Block("Server", func(b *show.Sheet) {
			b.Field("Version", v.Server.Version)
			b.Field("Runtime", v.Server.Runtime)
		})
	}
	return sheet.Print(s.Out)
}
