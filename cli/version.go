package cli

import (
	"context"
	"crypto/fips140"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
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
	// FIPSModule is the version of the Go Cryptographic Module, and FIPS whether it
	// is in FIPS 140-3 mode.
	FIPS       bool
	FIPSModule string
}

type serverVersion struct {
	// Name of the node that answered, if it was asked over the network.
	Name    string `json:",omitempty"`
	Version string
	Runtime string `json:",omitempty"`
	// FIPS: it says that it is in FIPS 140-3 mode; of FIPSModule the daemon of this
	// host tells.
	FIPS       bool
	FIPSModule string `json:",omitempty"`
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
			v := versions{Client: clientVersion{version.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, version.FeatureLevel, fips140.Enabled(), fips140.Version()}}
			var missing error
			v.Server, missing = served(ctx, api)
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

// served asks for the version of who answers: the daemon of this host, or the
// manager one uses from elsewhere, as its record has it.
func served(ctx context.Context, api *conn.Conn) (*serverVersion, error) {
	p, err := conn.Elsewhere(ctx, api)
	if err != nil {
		return nil, err
	}
	if p == nil {
		info, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
		if err != nil {
			return nil, err
		}
		return &serverVersion{Version: info.GetVersion(), Runtime: info.GetRuntime(), FIPS: info.GetFips(), FIPSModule: info.GetFipsModule()}, nil
	}
	if !p.Contact {
		ctx = rpc.Stale(ctx)
	}
	resp, err := conn.Read(ctx, api, controlv1.ControlClient.GetNode, &controlv1.GetNodeRequest{Ref: "self"})
	if err != nil {
		return nil, err
	}
	d := resp.GetNode().GetNode().GetDescription()
	return &serverVersion{Name: d.GetHostname(), Version: d.GetVersion(), Runtime: d.GetRuntime(), FIPS: d.GetFips()}, nil
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
		b.Field("FIPS 140-3", show.FIPS(v.Client.FIPS, v.Client.FIPSModule))
	})
	if v.Server != nil {
		sheet.Block("Server", func(b *show.Sheet) {
			b.Field("Name", v.Server.Name)
			b.Field("Version", v.Server.Version)
			b.Field("Runtime", v.Server.Runtime)
			b.Field("FIPS 140-3", show.FIPS(v.Server.FIPS, v.Server.FIPSModule))
		})
	}
	return sheet.Print(s.Out)
}
