package lab

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// A Direction says which way between two hosts a fault lies.
type Direction int

// The directions of Partition and Loss. A packet is lost where it would have
// arrived, so its sender learns nothing.
const (
	Both   Direction = iota
	ToB              // what a sends does not reach b
	ToA              // what b sends does not reach a
	all100 = 100
)

// Partition cuts a and b off from each other, or one way only.
func (l *Lab) Partition(ctx context.Context, a, b *Host, way Direction) error {
	return l.Loss(ctx, a, b, way, all100)
}

// Loss loses percent of 100 packets between a and b, at random; 0 heals.
func (l *Lab) Loss(ctx context.Context, a, b *Host, way Direction, percent int) error {
	if percent < 0 || percent > all100 {
		return fmt.Errorf("lab: loss of %d in 100: want 0 to 100", percent)
	}
	if way != ToA {
		if err := b.lose(ctx, a.address, percent); err != nil {
			return err
		}
	}
	if way != ToB {
		return a.lose(ctx, b.address, percent)
	}
	return nil
}

// Isolate cuts a host off from every other, though not from the gateway.
func (l *Lab) Isolate(ctx context.Context, h *Host) error {
	for _, other := range l.others(h) {
		if err := l.Partition(ctx, h, other, Both); err != nil {
			return err
		}
	}
	return nil
}

// Heal ends every partition and loss of the lab.
func (l *Lab) Heal(ctx context.Context) error {
	for _, h := range l.others(nil) {
		clear(h.drops)
		if err := h.applyDrops(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (l *Lab) others(than *Host) []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(l.hosts), func(h *Host) bool { return h == than })
}

func (h *Host) lose(ctx context.Context, from netip.Addr, percent int) error {
	h.drops[from] = percent
	return h.applyDrops(ctx)
}

// applyDrops writes the host's whole table anew, in one transaction. A dark
// host gets it when it boots.
func (h *Host) applyDrops(ctx context.Context) error {
	if h.machine == nil || (len(h.drops) == 0 && !h.machine.cut) {
		return nil
	}
	r, err := h.Exec(ctx, "nft", dropTable(h.drops))
	if err != nil {
		return err
	}
	if r.Code != 0 {
		return fmt.Errorf("lab: packet loss on %s: nft: %s", h.name, strings.TrimSpace(r.Stderr))
	}
	h.machine.cut = true
	return nil
}

// dropTable is the nftables program that loses what drops says.
func dropTable(drops map[netip.Addr]int) string {
	var b strings.Builder
	b.WriteString("add table ip skep_lab; delete table ip skep_lab; add table ip skep_lab; ")
	b.WriteString("add chain ip skep_lab arrive { type filter hook prerouting priority -300; policy accept; }; ")
	for _, from := range slices.SortedFunc(maps.Keys(drops), netip.Addr.Compare) {
		switch percent := drops[from]; percent {
		case 0:
		case all100:
			fmt.Fprintf(&b, "add rule ip skep_lab arrive ip saddr %s drop; ", from)
		default:
			fmt.Fprintf(&b, "add rule ip skep_lab arrive ip saddr %s numgen random mod 100 < %d drop; ", from, percent)
		}
	}
	return b.String()
}
