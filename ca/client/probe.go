package client

import (
	"context"
	"net"

	"github.com/skep-project/skep/ca"
)

// Probe says which manager answers at address, if it is one of the swarm whose
// root has the digest. It proves so by its certificate; nothing is sent to it. If
// its certificate is only out of its time the error wraps ca.ErrClock. dial may
// be nil, for the net package's.
func Probe(ctx context.Context, address string, root ca.Digest, dial func(ctx context.Context, address string) (net.Conn, error)) (ca.Identity, error) {
	if dial == nil {
		var d net.Dialer
		dial = func(ctx context.Context, address string) (net.Conn, error) { return d.DialContext(ctx, "tcp", address) }
	}
	conn, pin, err := Join{Token: ca.Token{Digest: root}, Dial: dial}.handshake(ctx, address)
	if err != nil {
		return ca.Identity{}, err
	}
	_ = conn.Close() // it has said who it is
	return pin.who, nil
}
