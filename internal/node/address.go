package node

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
)

// DefaultPort is where managers listen unless told otherwise.
const DefaultPort = 2377

// An endpoint is where this node's manager side listens, and where others are
// told to reach it.
type endpoint struct {
	listen    string // host:port
	advertise string // host:port
}

// host is the advertised address without its port.
func (e endpoint) host() string {
	h, _, err := net.SplitHostPort(e.advertise)
	if err != nil {
		return e.advertise
	}
	return h
}

// addresses finds the addresses of this machine; tests replace it by a table.
type addresses interface {
	// interfaces returns the usable addresses of each interface that is up,
	// loopback and link-local ones left out.
	interfaces() (map[string][]netip.Addr, error)
}

// chooseEndpoint makes an endpoint from what the operator said. Each of listen
// and advertise may be empty, an interface's name, or a host with or without a
// port.
func chooseEndpoint(from addresses, listen, advertise string) (endpoint, error) {
	known, err := from.interfaces()
	if err != nil {
		return endpoint{}, fmt.Errorf("look for this machine's addresses: %w", err)
	}
	lhost, lport, err := resolve(known, "listen-addr", listen, "0.0.0.0", DefaultPort)
	if err != nil {
		return endpoint{}, err
	}
	chosen := lhost
	if ip, err := netip.ParseAddr(lhost); err == nil && ip.IsUnspecified() {
		chosen = ""
	}
	if advertise == "" && chosen == "" {
		if chosen, err = only(known); err != nil {
			return endpoint{}, err
		}
	}
	ahost, aport, err := resolve(known, "advertise-addr", advertise, chosen, lport)
	if err != nil {
		return endpoint{}, err
	}
	if ip, err := netip.ParseAddr(ahost); err == nil && ip.IsUnspecified() {
		return endpoint{}, rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "advertise-addr %q: others cannot reach an unspecified address", advertise),
			"name an address or an interface of this machine")
	}
	return endpoint{
		listen:    net.JoinHostPort(lhost, strconv.Itoa(lport)),
		advertise: net.JoinHostPort(ahost, strconv.Itoa(aport)),
	}, nil
}

// interfaceOf returns the interface that has the advertised address, and "" if
// it is no address of this machine's own.
func interfaceOf(from addresses, e endpoint) string {
	known, err := from.interfaces()
	if err != nil {
		return ""
	}
	return holder(known, e.host())
}

func holder(known map[string][]netip.Addr, host string) string {
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return ""
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		if slices.Contains(known[name], ip.Unmap()) {
			return name
		}
	}
	return ""
}

// moved returns where a machine is reached that was reached at e by way of an
// interface, and may have another address by now. Without an interface the
// address was never the machine's own, and stays as it was said.
func moved(from addresses, e endpoint, via string) (endpoint, error) {
	known, err := from.interfaces()
	if err != nil {
		return e, fmt.Errorf("look for this machine's addresses: %w", err)
	}
	old := e.host()
	if via == "" || len(known) == 0 || holder(known, old) != "" {
		return e, nil // also while no interface is up: the address may come back
	}
	var host string
	if addrs := known[via]; len(addrs) > 0 {
		host = prefer(addrs).String()
	} else if host, err = only(known); err != nil {
		return e, fmt.Errorf("the address %s is gone: %w", old, err)
	}
	next := endpoint{listen: e.listen}
	if h, port, err := net.SplitHostPort(e.listen); err == nil && h == old {
		next.listen = net.JoinHostPort(host, port)
	}
	_, port, err := net.SplitHostPort(e.advertise)
	if err != nil {
		return e, fmt.Errorf("the address %s is gone: its port: %w", old, err)
	}
	next.advertise = net.JoinHostPort(host, port)
	return next, nil
}

// resolve reads "", "eth0", "eth0:2377", "10.0.0.1", "10.0.0.1:2377" or "[::1]:2377".
func resolve(known map[string][]netip.Addr, what, said, host string, port int) (string, int, error) {
	if said == "" {
		return host, port, nil
	}
	name := said
	if h, p, err := net.SplitHostPort(said); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return "", 0, rpc.Errorf(errdefs.ErrInvalidArgument, "%s %q: port %q is not between 1 and 65535", what, said, p)
		}
		name, port = h, int(n)
	}
	name = strings.Trim(name, "[]")
	if ip, err := netip.ParseAddr(name); err == nil && !strings.ContainsAny(ip.Zone(), "[]") {
		return name, port, nil
	}
	addrs, ok := known[name]
	switch {
	case !ok:
		return "", 0, rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "%s %q: neither an IP address nor an interface that is up", what, said),
			"this machine has "+list(known))
	case len(addrs) == 0:
		return "", 0, rpc.Errorf(errdefs.ErrInvalidArgument, "%s %q: the interface has no address", what, said)
	}
	return prefer(addrs).String(), port, nil
}

// prefer is the first IPv4 address, or the first there is.
func prefer(addrs []netip.Addr) netip.Addr {
	if i := slices.IndexFunc(addrs, netip.Addr.Is4); i >= 0 {
		return addrs[i]
	}
	return addrs[0]
}

// only is the machine's address if there is one choice: its one IPv4 address, or
// where it has none, its one IPv6 address.
func only(known map[string][]netip.Addr) (string, error) {
	var four, six []netip.Addr
	for _, addrs := range known {
		for _, a := range addrs {
			if a.Is4() {
				four = append(four, a)
			} else {
				six = append(six, a)
			}
		}
	}
	switch {
	case len(four) == 1:
		return four[0].String(), nil
	case len(four) == 0 && len(six) == 1:
		return six[0].String(), nil
	case len(four)+len(six) == 0:
		return "127.0.0.1", nil
	}
	return "", rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "this machine has several addresses and cannot tell which one others reach"),
		"choose one with --advertise-addr: "+list(known))
}

// list names addresses and their interfaces in a fixed order.
func list(known map[string][]netip.Addr) string {
	var out []string
	for name, addrs := range known {
		for _, a := range addrs {
			out = append(out, fmt.Sprintf("%s on %s", a, name))
		}
	}
	slices.Sort(out)
	if len(out) == 0 {
		return "no address besides loopback"
	}
	return strings.Join(out, ", ")
}

// machine is the addresses of the machine itself.
type machine struct{}

func (machine) interfaces() (map[string][]netip.Addr, error) {
	ifs, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	out := make(map[string][]netip.Addr)
	var faults error
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			faults = errors.Join(faults, err)
			continue
		}
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err == nil && !p.Addr().IsLinkLocalUnicast() {
				out[i.Name] = append(out[i.Name], p.Addr().Unmap())
			}
		}
	}
	if len(out) == 0 {
		return out, faults
	}
	return out, nil
}
