package service

import (
	"context"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/spec"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func scale(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "scale",
		Usage:     "change how many tasks services have",
		ArgsUsage: "SERVICE=REPLICAS...",
		Flags:     waitFlags(),
		Before:    need,
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			wishes, err := parseScale(c.Args().Slice())
			if err != nil {
				return err
			}
			return scaleAll(ctx, c, api, wishes)
		}),
	}
}

// A wish is how many tasks a service should have.
type wish struct {
	ref      string
	replicas uint64

	id   string
	goal progress.Goal
}

func parseScale(args []string) ([]*wish, error) {
	var out []*wish
	for _, arg := range args {
		ref, number, ok := strings.Cut(arg, "=")
		if !ok || ref == "" {
			return nil, say.Misuse("service scale %q: want SERVICE=REPLICAS", arg)
		}
		n, err := spec.ParseCount(number)
		if err != nil {
			return nil, say.Misuse("service scale %s: replicas %v", ref, err)
		}
		out = append(out, &wish{ref: ref, replicas: n})
	}
	return out, nil
}

// scaleAll changes every service before it waits for the first.
func scaleAll(ctx context.Context, c *cli.Context, api *conn.Conn, wishes []*wish) error {
	byRef := map[string]*wish{}
	var taken []string
	refused := conn.Each(ctx, refs(wishes, byRef), func(ctx context.Context, ref string) error {
		w := byRef[ref]
		v, goal, err := apply(ctx, api, ref, func(v *controlv1.ServiceView, req *controlv1.UpdateServiceRequest) (err error) {
			req.Spec, err = spec.Scale(v.GetService().GetSpec(), w.replicas)
			return err
		})
		if err != nil {
			return err
		}
		w.id, w.goal = idOf(v), goal
		taken = append(taken, ref)
		return api.Streams().Data("%s scaled to %d", ref, w.replicas)
	})
	if c.Bool("detach") {
		return refused
	}
	for _, ref := range taken {
		if err := converge(ctx, c, api, byRef[ref].id, ref, byRef[ref].goal); err != nil {
			return err
		}
	}
	return refused
}

func refs(wishes []*wish, byRef map[string]*wish) []string {
	var out []string
	for _, w := range wishes {
		if byRef[w.ref] == nil {
			out = append(out, w.ref)
		}
		byRef[w.ref] = w // the last word counts
	}
	return out
}
