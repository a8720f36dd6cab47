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

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A registryServer is an OCI registry on the lab's bridge.
type registryServer struct {
	address string
	server  *http.Server
	done    sync.WaitGroup
}

// serveRegistry starts a registry on the gateway and fills it with the lab's
// images. Its goroutine ends with Close.
func serveRegistry(ctx context.Context, gateway netip.Addr) (*registryServer, error) {
	listener, err := net.Listen("tcp", netip.AddrPortFrom(gateway, 5000).String())
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	silent := log.New(io.Discard, "", 0)
	r := &registryServer{
		address: listener.Addr().String(),
		server:  &http.Server{Handler: registry.New(registry.Logger(silent)), ErrorLog: silent},
	}
	r.done.Go(func() { _ = r.server.Serve(listener) })
	if err := r.push(ctx, "library/alpine:latest", "library/busybox:latest"); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
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
		if err := remote.Write(ref, image, remote.WithContext(ctx), remote.WithTransport(transport)); err != nil {
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
