package containerd

import (
	"crypto/sha256"
	"fmt"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// credentials are what one registry is shown, and no other. The zero value is
// none.
type credentials struct {
	host string // that serves the registry
	user string
	// secret is a password, or with an empty user a token that the registry's
	// token server exchanges.
	secret sealed.Secret
	// bearer is shown to the registry as it is.
	bearer sealed.Secret
}

// credentialsFor returns what to show the registry of the image ref, which is
// nothing if auth is for another.
func credentialsFor(ref string, auth *modelv1.RegistryAuth) credentials {
	if auth.GetRegistry() == "" || auth.GetRegistry() != registryOf(ref) {
		return credentials{}
	}
	c := credentials{host: dockerHost(auth.GetRegistry()), user: auth.GetUsername(), secret: sealed.NewSecret(auth.GetPassword())}
	switch {
	case len(auth.GetRegistryToken()) > 0:
		c.user, c.secret, c.bearer = "", sealed.Secret{}, sealed.NewSecret(auth.GetRegistryToken())
	case len(auth.GetIdentityToken()) > 0:
		c.user, c.secret = "", sealed.NewSecret(auth.GetIdentityToken())
	}
	return c
}

// digest tells credentials apart without holding them.
func (c credentials) digest() string {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(c.host), []byte(c.user), c.secret.Reveal(), c.bearer.Reveal()} {
		fmt.Fprintf(h, "%d ", len(part)) // a hash never fails to be written to
		h.Write(part)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

// forHost returns what to show host: nothing, unless it is the image's own
// registry. A mirror never sees the credentials.
func (c credentials) forHost(host string) (user, secret string, err error) {
	if c.host == "" || host != c.host {
		return "", "", nil
	}
	return c.user, string(c.secret.Reveal()), nil
}

// bear adds the bearer token, if there is one, to what the registry is asked with.
func (c credentials) bear(hosts docker.RegistryHosts) docker.RegistryHosts {
	if c.bearer.IsZero() {
		return hosts
	}
	return func(registry string) ([]docker.RegistryHost, error) {
		all, err := hosts(registry)
		for i := range all {
			if all[i].Host == c.host {
				if all[i].Header = all[i].Header.Clone(); all[i].Header == nil {
					all[i].Header = http.Header{}
				}
				all[i].Header.Set("Authorization", "Bearer "+string(c.bearer.Reveal()))
			}
		}
		return all, err
	}
}

// refused says whom a registry has refused, why that may be, and what to do.
func (c credentials) refused(registry string) string {
	who, why := "access without credentials", "no such repository, or it is private"
	switch {
	case c.user != "":
		who, why = "user "+c.user, "the password is wrong or has expired, or the repository is not this user's to pull"
	case c.host != "":
		who, why = "the token it was shown", "it is wrong or has expired, or the repository is not its to pull"
	}
	return fmt.Sprintf(`%s: %s; log in with "docker login %s", then "ctl service update --with-registry-auth SERVICE"`, who, why, registry)
}

// dockerHost returns the host that serves a registry of that name.
func dockerHost(registry string) string {
	if registry == "docker.io" {
		return "registry-1.docker.io"
	}
	return registry
}
