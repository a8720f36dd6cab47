// Package registry finds what a person's Docker configuration has for the
// registry of an image: what "docker login" left, in the file itself or with a
// credential helper.
//
// It owns the way there and nothing of what is found: that is sent on once, to
// the swarm, and kept nowhere. It writes nothing, asks no registry, and knows of
// no flag.
//
// Invariant: only the image's own registry is looked up, and no error quotes what
// was found.
package registry

import (
	"context"
	"fmt"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/skep-project/skep/cli/say"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Of returns the registry that an image as typed is pulled from, "docker.io" for
// a short one, and "" for what is no image, which the swarm will say.
func Of(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// Find returns what the Docker configuration of the user who runs this process
// (DOCKER_CONFIG, else ~/.docker) has for a registry; nil if it has nothing. A
// credential helper may ask the user for something first: ctx bounds that.
func Find(ctx context.Context, registry string) (*modelv1.RegistryAuth, error) {
	target, err := name.NewRegistry(registry)
	if err != nil {
		return nil, fmt.Errorf("credentials for registry %s: %w", registry, err)
	}
	type answer struct {
		found *authn.AuthConfig
		err   error
	}
	// A helper is a process that cannot be told to stop. One that hangs is left to
	// the end of this process, which is the end of the command.
	answers := make(chan answer, 1)
	go func() {
		found, err := look(ctx, target)
		answers <- answer{found, err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, say.Hinted(fmt.Errorf("credentials for registry %s: %w", registry, a.err),
				fmt.Sprintf("log in anew with \"docker login %s\", or leave --with-registry-auth out", registry))
		}
		return auth(registry, a.found), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func look(ctx context.Context, target name.Registry) (*authn.AuthConfig, error) {
	found, err := authn.Resolve(ctx, authn.DefaultKeychain, target)
	if err != nil {
		return nil, err
	}
	return authn.Authorization(ctx, found)
}

// auth is what was found as the swarm takes it.
func auth(registry string, c *authn.AuthConfig) *modelv1.RegistryAuth {
	if *c == (authn.AuthConfig{}) {
		return nil
	}
	return &modelv1.RegistryAuth{
		Registry: registry, Username: c.Username, Password: []byte(c.Password),
		IdentityToken: []byte(c.IdentityToken), RegistryToken: []byte(c.RegistryToken),
	}
}
