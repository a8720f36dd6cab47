package control

import (
	"slices"
	"unicode"

	"github.com/distribution/reference"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// maxAuth bounds what a registry is shown, in bytes. The tokens of clouds take a
// few thousand.
const maxAuth = 16 << 10

// registryOf returns the registry of an image that is named in full; "" if it is
// not.
func registryOf(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	return reference.Domain(named)
}

// credentialsFault says what is wrong with what the registry of a service's image
// is to be shown; nothing of it but the registry is quoted.
func credentialsFault(spec *modelv1.ServiceSpec, auth *modelv1.RegistryAuth, registry string) error {
	if auth == nil {
		return nil
	}
	var f faults
	f.check(auth.GetRegistry() == registry,
		"registry credentials: they are for %q, the image is of %s", cut(auth.GetRegistry()), registry)
	f.check(len(auth.GetPassword())+len(auth.GetIdentityToken())+len(auth.GetRegistryToken()) > 0,
		"registry credentials for %s: neither a password nor a token", cut(auth.GetRegistry()))
	f.check(proto.Size(auth) <= maxAuth, "registry credentials for %s: %d bytes, at most %d", cut(auth.GetRegistry()), proto.Size(auth), maxAuth)
	f.check(len(auth.GetUsername()) <= 256 && printable(auth.GetUsername()),
		"registry credentials for %s: the user's name is longer than 256 bytes or cannot be printed", cut(auth.GetRegistry()))
	return f.refusal(serviceThing(spec))
}

func printable(text string) bool {
	for _, r := range text {
		if !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// keepAuths gives v the credentials it goes on with: fresh ones, if there are
// any, in the place of those for the same registry, and of the others those whose
// registry a revision that v names is pulled from. So a rollback finds what it
// needs, and credentials for a registry that was left go with its last revision.
func keepAuths(tx *store.Tx, v *modelv1.Service, fresh *modelv1.RegistryAuth) error {
	if fresh == nil && len(v.GetRegistryAuths()) == 0 {
		return nil
	}
	registry := func(number uint64) string {
		return registryOf(tx.Revision(idOf(v.GetId()), number).GetTemplate().GetContainer().GetImage())
	}
	if err := credentialsFault(v.GetSpec(), fresh, registry(v.GetTarget())); err != nil {
		return err
	}
	auths := slices.Clone(v.GetRegistryAuths())
	if fresh != nil {
		auths = slices.DeleteFunc(auths, func(a *modelv1.RegistryAuth) bool { return a.GetRegistry() == fresh.GetRegistry() })
		auths = append(auths, fresh)
	}
	used := []string{registry(v.GetCurrent()), registry(v.GetPrevious()), registry(v.GetTarget())}
	v.RegistryAuths = slices.DeleteFunc(auths, func(a *modelv1.RegistryAuth) bool { return !slices.Contains(used, a.GetRegistry()) })
	return nil
}

// withoutAuths is the service as it is shown: nobody is told credentials.
func withoutAuths(v *modelv1.Service) *modelv1.Service {
	if len(v.GetRegistryAuths()) == 0 {
		return v
	}
	v = proto.CloneOf(v)
	v.RegistryAuths = nil
	return v
}
