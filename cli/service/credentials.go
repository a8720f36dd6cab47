package service

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/registry"
	"github.com/skep-project/skep/cli/say"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// credentials returns what the user's Docker configuration has for the registry
// of an image, if --with-registry-auth asks for it. Having nothing is no fault,
// because scripts give the flag for public images too; instead says what then
// happens.
func credentials(ctx context.Context, c *cli.Context, s *say.Streams, image, instead string) (*modelv1.RegistryAuth, error) {
	host := registry.Of(image)
	if !c.Bool(withAuth) || host == "" { // what is no image is the swarm's to refuse
		return nil, nil
	}
	found, err := registry.Find(ctx, host)
	if err == nil && found == nil {
		s.Warn("the Docker configuration has no credentials for " + host + ", " + instead + `; "docker login ` + host + `" makes some`)
	}
	return found, err
}

// withAuth is the flag that sends credentials.
const withAuth = "with-registry-auth"
