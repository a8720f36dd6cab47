package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// firstHost is the last byte of the first host's address.
const firstHost = 11

// A network is the lab's bridge and the /24 on it.
type network struct {
	subnet netip.Prefix
	bridge *netlink.Bridge
	lab    string
	id     string
}

// newNetwork makes the bridge, named id, marked with the lab's name.
func newNetwork(lab, id string, subnet netip.Prefix) (network, error) {
	var err error
	if subnet, err = pickSubnet(subnet); err != nil {
		return network{}, err
	}
	n := network{subnet: subnet, lab: lab, id: id}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Alias = id, lab
	n.bridge = &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(n.bridge); err != nil {
		return n, fmt.Errorf("bridge %s: %w", id, err)
	}
	address, err := netlink.ParseAddr(fmt.Sprintf("%s/%d", n.gateway(), subnet.Bits()))
	if err != nil {
		return n, fmt.Errorf("bridge %s: %w", id, err)
	}
	if err := errors.Join(
		netlink.LinkSetAlias(n.bridge, lab),
		netlink.AddrAdd(n.bridge, address),
		netlink.LinkSetUp(n.bridge),
	); err != nil {
		return n, fmt.Errorf("bridge %s: %w", id, err)
	}
	return n, nil
}

// pickSubnet returns want, or a /24 of 10/8 that no route of this machine
// touches, beginning the search at a place of this process's own.
func pickSubnet(want netip.Prefix) (netip.Prefix, error) {
	if want.IsValid() {
		if !want.Addr().Is4() || want.Bits() != 24 {
			return want, fmt.Errorf("subnet %v: want a /24 of IPv4", want)
		}
		return want.Masked(), nil
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return want, fmt.Errorf("list routes: %w", err)
	}
	const blocks = 40 * 256 // 10.200.0.0 to 10.239.255.0
	for i := range blocks {
		block := (os.Getpid()*7 + int(labs.Load()) + i) % blocks
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(200 + block/256), byte(block), 0}), 24)
		if !taken(p, routes) {
			return p, nil
		}
	}
	return want, errors.New("subnet: no free /24 in 10.200.0.0 to 10.239.255.0; name one")
}

func taken(p netip.Prefix, routes []netlink.Route) bool {
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP == nil {
			continue // the default route touches everything
		}
		ones, _ := r.Dst.Mask.Size()
		if a, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok && ones > 0 && p.Overlaps(netip.PrefixFrom(a, ones)) {
			return true
		}
	}
	return false
}

func (n network) at(last byte) netip.Addr {
	b := n.subnet.Addr().As4()
	b[3] = last
	return netip.AddrFrom4(b)
}

func (n network) gateway() netip.Addr        { return n.at(1) }
func (n network) host(number int) netip.Addr { return n.at(byte(firstHost - 1 + number)) }
func (n network) far(number int) string      { return fmt.Sprintf("%sp%d", n.id, number) }
func (n network) near(number int) string     { return fmt.Sprintf("%sh%d", n.id, number) }

// card is the hardware address of a host: the same at every boot, as a network
// card's is, so that peers need not learn it again.
func (n network) card(number int) net.HardwareAddr {
	return append(net.HardwareAddr{0x02, 0x5e}, n.host(number).AsSlice()...)
}

// wire runs a cable from the bridge into the network namespace of pid.
func (n network) wire(number, pid int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = n.near(number), n.bridge.Attrs().Index
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: n.far(number), PeerNamespace: netlink.NsPid(pid),
		PeerHardwareAddr: n.card(number),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("wire %s: %w", attrs.Name, err)
	}
	if err := errors.Join(netlink.LinkSetAlias(veth, n.lab), netlink.LinkSetUp(veth)); err != nil {
		return fmt.Errorf("wire %s: %w", attrs.Name, err)
	}
	return nil
}

// carried waits until the bridge forwards what the host sends: the kernel
// notices a new carrier up to a second late.
func (n network) carried(ctx context.Context, number int) error {
	state := filepath.Join("/sys/class/net", n.near(number), "brport/state")
	const forwarding = "3"
	for {
		data, err := os.ReadFile(state)
		if err != nil {
			return fmt.Errorf("wire %s: %w", n.near(number), err)
		}
		if strings.TrimSpace(string(data)) == forwarding {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wire %s carries nothing: %w", n.near(number), context.Cause(ctx))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// dark takes the link of a host down at the bridge: nothing leaves it any more.
func (n network) dark(number int, down bool) error {
	link, err := netlink.LinkByName(n.near(number))
	if err != nil {
		return fmt.Errorf("wire %s: %w", n.near(number), err)
	}
	if down {
		return netlink.LinkSetDown(link)
	}
	return netlink.LinkSetUp(link)
}

// unwire removes the cable of a host, if it is still there.
func (n network) unwire(number int) error {
	link, err := netlink.LinkByName(n.near(number))
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("wire %s: %w", n.near(number), err)
	}
	return gone(netlink.LinkDel(link))
}

// removeLinks removes every link that carries the lab's name.
func removeLinks(lab string) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var all []error
	for _, link := range links {
		if link.Attrs().Alias == lab {
			all = append(all, gone(netlink.LinkDel(link)))
		}
	}
	return errors.Join(all...)
}

// gone takes "no such link" for success: one end's removal takes the other.
func gone(err error) error {
	if errors.Is(err, syscall.ENODEV) || errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	return err
}

// cidr is a host's address with its network.
func (n network) cidr(number int) string {
	return (&net.IPNet{IP: n.host(number).AsSlice(), Mask: net.CIDRMask(n.subnet.Bits(), 32)}).String()
}
