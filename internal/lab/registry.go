package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// The ports of the registries on the gateway, which hosts call registry.lab.
const (
	registryPort = 5000
	privatePort  = 5001
)

// A registryServer is an OCI registry on the lab's bridge.
type registryServer struct {
	address string
	server  *http.Server
	guard   *authn.Basic // whom it lets in; nil: anybody
	done    sync.WaitGroup
}

// serveRegistry starts a registry on the gateway and puts the lab's one image in
// it under each name. Its goroutine ends with Close.
func serveRegistry(ctx context.Context, address netip.AddrPort, guard *authn.Basic, names ...string) (*registryServer, error) {
	listener, err := net.Listen("tcp", address.String())
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	silent := log.New(io.Discard, "", 0)
	r := &registryServer{
		address: listener.Addr().String(), guard: guard,
		server: &http.Server{Handler: guarded(registry.New(registry.Logger(silent)), guard), ErrorLog: silent},
	}
	r.done.Go(func() { _ = r.server.Serve(listener) })
	if err := r.push(ctx, names...); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// guarded lets in whoever shows what guard says.
func guarded(next http.Handler, guard *authn.Basic) http.Handler {
	if guard == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); user != guard.Username || password != guard.Password {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Private opens a second registry, registry.lab:5001, over plain HTTP. It lets in
// one user and holds the lab's image under each name. Hosts are not told of it.
func (l *Lab) Private(ctx context.Context, user, password string, names ...string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.private != nil {
		return errors.New("lab: there is a private registry")
	}
	var err error
	l.private, err = serveRegistry(ctx, netip.AddrPortFrom(l.net.gateway(), privatePort), &authn.Basic{Username: user, Password: password}, names...)
	if err != nil {
		return fmt.Errorf("lab: private registry: %w", err)
	}
	return nil
}

// push puts the lab's one image under each name.
func (r *registryServer) push(ctx context.Context, names ...string) error {
	image, err := alpine(ctx)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	transport := &http.Transport{} // straight, whatever proxy the machine has
	defer transport.CloseIdleConnections()
	for _, n := range names {
		ref, err := name.ParseReference(r.address+"/"+n, name.Insecure)
		if err != nil {
			return fmt.Errorf("image %s: %w", n, err)
		}
		options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(transport)}
		if r.guard != nil {
			options = append(options, remote.WithAuth(r.guard))
		}
		if err := remote.Write(ref, image, options...); err != nil {
			return fmt.Errorf("push image %s: %w", n, err)
		}
	}
	return nil
}

func (r *registryServer) Close() error {
	err := r.server.Close()
	r.done.Wait()
	return err
}
