//go:build lab

package many

import (
	"context"
	"fmt"
	"strings"

	"github.com/skep-project/skep/internal/lab"
)

// readdress gives a host an address it never had and takes its old one.
func (s *swarm) readdress(ctx context.Context, name string, number int) (string, error) {
	next := s.Hosts[name].Address().String()
	next = fmt.Sprintf("%s.%d", next[:strings.LastIndex(next, ".")], 100+number)
	return next, typed(ctx, s.Hosts[name], `old=$(busybox ip -4 -o addr show eth0 | busybox awk '{ print $4 }') &&
		busybox ip addr flush dev eth0 && busybox ip addr add `+next+`/24 dev eth0 && test $old != `+next+`/24`)
}

// move takes managers down at once and brings them back at other addresses.
func (s *swarm) move(names ...string) {
	s.Helper()
	s.each(names, func(ctx context.Context, h *lab.Host) error { return h.KillDaemon(ctx) })
	at := map[string]string{}
	for _, name := range names {
		s.moves++
		next, err := s.readdress(s.Ctx, name, s.moves)
		if err != nil {
			s.Fatal(err)
		}
		at[name] = next
	}
	s.each(names, func(ctx context.Context, h *lab.Host) error { return h.Daemon(ctx) })
	for _, ask := range s.names {
		for name, next := range at {
			s.Until(ask, "ctl node inspect "+name, next+":2377")
		}
	}
	for _, name := range s.names {
		s.whole(name)
	}
}

// twoMoved moves two of five at once, the leader one of them.
func (s *swarm) twoMoved() {
	s.Helper()
	first := s.leader("m1")
	second := s.others(first)[1]
	s.writing(s.others(first, second)...)
	s.more(5)
	s.move(first, second)
	s.more(5)
	s.rested(fmt.Sprintf("%s and %s moved at once", first, second))
}
