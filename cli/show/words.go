package show

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/distribution/reference"
	units "github.com/docker/go-units"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ID returns the 25 digits of the id b, or "" for none.
func ID(b []byte) string {
	x, err := id.FromBytes(b)
	if err != nil || x.IsZero() {
		return ""
	}
	return x.String()
}

// ShortID returns the 12 digits that lists show.
func ShortID(b []byte) string { return Short(ID(b)) }

// Short cuts the digits of an id to the 12 that lists show.
func Short(digits string) string { return digits[:min(id.ShortDigits, len(digits))] }

// Title returns s with its first letter in upper case.
func Title(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	return string(unicode.ToUpper(r)) + s[n:]
}

// Ago returns how long before now the moment at (Unix nanoseconds) was, as
// "6 seconds ago". A moment in the future is now: clocks differ.
func Ago(at, now int64) string {
	return strings.ToLower(units.HumanDuration(max(0, time.Duration(now-at)))) + " ago"
}

// Age returns d in words of a person: "3 months".
func Age(d time.Duration) string { return strings.ToLower(units.HumanDuration(d)) }

// Clock says how far a clock is ahead of that of the manager by, in nanoseconds:
// "3h0m0s behind the swarm's, by what manager 0123456789ab says". "" for 0.
func Clock(ahead int64, by []byte) string {
	if ahead == 0 {
		return ""
	}
	return fmt.Sprintf("%s the swarm's, by what manager %s says", rpc.OffBy(time.Duration(ahead)), ShortID(by))
}

// Bytes returns n as "7.704GiB".
func Bytes(n int64) string { return units.BytesSize(float64(n)) }

// CPUs returns billionths of a CPU as "1.5".
func CPUs(nano int64) string {
	return fmt.Sprintf("%g", math.Round(float64(nano)/1e6)/1e3)
}

// Image returns an image as people write it: without the default registry, and
// without its digest unless it is asked for.
func Image(image string, digest bool) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return image
	}
	out := reference.FamiliarName(named)
	tagged, hasTag := named.(reference.Tagged)
	if hasTag {
		out += ":" + tagged.Tag()
	}
	if d, ok := named.(reference.Digested); ok && (digest || !hasTag) {
		return out + "@" + d.Digest().String()
	}
	return out
}

// Labels returns the pairs of m as "k=v", sorted.
func Labels(m map[string]string) []string {
	out := make([]string, 0, len(m))
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return out
}

// Natural compares names as people order them: node-2 before node-10.
func Natural(a, b string) int {
	for a != "" && b != "" {
		na, nb := digits(a), digits(b)
		if na == 0 || nb == 0 {
			if a[0] != b[0] {
				return cmp.Compare(a[0], b[0])
			}
			a, b = a[1:], b[1:]
			continue
		}
		x, y := strings.TrimLeft(a[:na], "0"), strings.TrimLeft(b[:nb], "0")
		if c := cmp.Or(cmp.Compare(len(x), len(y)), cmp.Compare(x, y), cmp.Compare(na, nb)); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits returns how many digits s begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

// WaitsToRenew reports whether a node that is in waits for an operator to allow its
// next certificate.
func WaitsToRenew(n *modelv1.Node) bool {
	return n.GetWait() != nil && n.GetWait().GetVerdict() == modelv1.RenewalWait_VERDICT_UNSPECIFIED
}

// NodeState is what a list says of a node: Ready, Down, Unknown, or Pending if it
// waits to be accepted.
func NodeState(n *modelv1.Node) string {
	ready := n.GetStatus().GetState() == modelv1.NodeState_NODE_STATE_READY
	if n.GetMembership() == modelv1.Membership_MEMBERSHIP_PENDING || WaitsToRenew(n) && !ready {
		return "Pending"
	}
	switch n.GetStatus().GetState() {
	case modelv1.NodeState_NODE_STATE_READY:
		return "Ready"
	case modelv1.NodeState_NODE_STATE_DOWN:
		return "Down"
	}
	return "Unknown"
}

// FIPS says whether a program's cryptography is in FIPS 140-3 mode, and which
// version of the Go Cryptographic Module it has, if that is known.
func FIPS(on bool, module string) string {
	word := "off"
	if on {
		word = "on"
	}
	if module == "" {
		return word
	}
	return word + " (Go Cryptographic Module " + module + ")"
}
