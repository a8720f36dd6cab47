package schedule

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Constraint is one condition on a node, "key==value" or "key!=value". Make it
// with ParseConstraint; the zero Constraint matches no node.
type Constraint struct {
	attribute attribute
	// label is the label's name where the attribute is one of labels.
	label string
	value string
	not   bool
	// network is the value of a condition on node.ip.
	network netip.Prefix
	typed   string
}

// An attribute is what of a node a key names.
type attribute uint8

const (
	attributeNone attribute = iota
	attributeID
	attributeHostname
	attributeIP
	attributeRole
	attributeOS
	attributeArchitecture
	attributeLabel
	attributeEngineLabel
)

// keys are the keys without a label's name, in lower case.
var keys = map[string]attribute{
	"node.id":            attributeID,
	"node.hostname":      attributeHostname,
	"node.ip":            attributeIP,
	"node.role":          attributeRole,
	"node.platform.os":   attributeOS,
	"node.platform.arch": attributeArchitecture,
}

const (
	labelPrefix       = "node.labels."
	engineLabelPrefix = "engine.labels."
	knownKeys         = "node.id, node.hostname, node.ip, node.role, node.platform.os, node.platform.arch, node.labels.NAME, engine.labels.NAME"
)

// ParseConstraint returns the condition that s states, or an error that quotes
// what is wrong. Keys are read without regard to case, but for the name of a
// label; values are compared without regard to case, and wholly. node.ip takes an
// address or a network ("10.1.0.0/16").
//
// Source: the keys and their meaning are Docker Swarm's. Unlike there, an unknown
// key is refused instead of matching nothing.
func ParseConstraint(s string) (Constraint, error) {
	key, value, not, ok := cutOperator(s)
	if !ok {
		return Constraint{}, fmt.Errorf(`constraint %q: want "key==value" or "key!=value"`, s)
	}
	if value == "" {
		return Constraint{}, fmt.Errorf("constraint %q: no value after the operator", s)
	}
	if strings.ContainsAny(value, "=!\n\r\t\x00") {
		return Constraint{}, fmt.Errorf("constraint %q: value %q holds a character that no value may hold", s, value)
	}
	a, label, err := parseKey(key)
	if err != nil {
		return Constraint{}, fmt.Errorf("constraint %q: %w", s, err)
	}
	c := Constraint{attribute: a, label: label, value: value, not: not, typed: s}
	switch a {
	case attributeIP:
		if c.network, err = parseNetwork(value); err != nil {
			return Constraint{}, fmt.Errorf("constraint %q: %w", s, err)
		}
	case attributeRole:
		if !strings.EqualFold(value, "worker") && !strings.EqualFold(value, "manager") {
			return Constraint{}, fmt.Errorf("constraint %q: role %q: want worker or manager", s, value)
		}
	}
	return c, nil
}

// cutOperator cuts s around its first operator, and the blanks off both halves.
func cutOperator(s string) (key, value string, not, ok bool) {
	eq, ne := strings.Index(s, "=="), strings.Index(s, "!=")
	at := eq
	if eq < 0 || (ne >= 0 && ne < eq) {
		at, not = ne, true
	}
	if at < 0 {
		return "", "", false, false
	}
	return strings.TrimSpace(s[:at]), strings.TrimSpace(s[at+2:]), not, true
}

// parseKey returns what key names.
func parseKey(key string) (a attribute, label string, err error) {
	if key == "" {
		return 0, "", errors.New("no key before the operator")
	}
	lower := strings.ToLower(key)
	if a, ok := keys[lower]; ok {
		return a, "", nil
	}
	for prefix, a := range map[string]attribute{labelPrefix: attributeLabel, engineLabelPrefix: attributeEngineLabel} {
		if !strings.HasPrefix(lower, prefix) {
			continue
		}
		label = key[len(prefix):]
		if label == "" || strings.ContainsAny(label, " =!\n\r\t\x00") {
			return 0, "", fmt.Errorf("key %q: %q is not the name of a label", key, label)
		}
		return a, label, nil
	}
	return 0, "", fmt.Errorf("unknown key %q: want one of %s", key, knownKeys)
}

func parseNetwork(value string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(value); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is neither an address nor a network", value)
	}
	return p.Masked(), nil
}

// String returns the constraint as it was typed.
func (c Constraint) String() string { return c.typed }

// Match reports whether n satisfies the constraint. A label that n does not have
// is the empty value: it satisfies every "!=".
func (c Constraint) Match(n *Node) bool {
	if c.attribute == attributeNone {
		return false
	}
	return c.holds(n) != c.not
}

// holds reports whether the attribute has the value.
func (c Constraint) holds(n *Node) bool {
	if c.attribute == attributeIP {
		a, err := netip.ParseAddr(n.Address)
		return err == nil && c.network.Contains(a.Unmap().WithZone(""))
	}
	have, want := c.attribute.of(n, c.label), c.value
	if c.attribute == attributeArchitecture {
		have, want = architecture(have), architecture(want)
	}
	return strings.EqualFold(have, want)
}

// of returns the attribute's value on n. Addresses are compared elsewhere.
func (a attribute) of(n *Node, label string) string {
	switch a {
	case attributeID:
		return n.ID.String()
	case attributeHostname:
		return n.Hostname
	case attributeRole:
		return roleName(n.Role)
	case attributeOS:
		return n.OS
	case attributeArchitecture:
		return n.Architecture
	case attributeLabel:
		return n.Labels[label]
	case attributeEngineLabel:
		return n.EngineLabels[label]
	case attributeIP:
		return n.Address
	}
	return ""
}

func roleName(r modelv1.Role) string {
	if r == modelv1.Role_ROLE_MANAGER {
		return "manager"
	}
	return "worker"
}

// architecture returns one name for the names that one architecture goes by.
func architecture(s string) string {
	switch s = strings.ToLower(s); s {
	case "x86_64", "x86-64":
		return "amd64"
	case "aarch64", "arm64/v8":
		return "arm64"
	case "i386", "i686":
		return "386"
	}
	return s
}

// A Spread is a key over whose values the tasks of a service are spread evenly.
type Spread struct {
	attribute attribute
	label     string
	typed     string
}

// ParseSpread returns the preference that s states: a key as constraints know
// them ("node.labels.zone"). "spread=KEY" is read as KEY.
func ParseSpread(s string) (Spread, error) {
	key := strings.TrimSpace(s)
	if rest, ok := strings.CutPrefix(key, "spread="); ok {
		key = strings.TrimSpace(rest)
	}
	a, label, err := parseKey(key)
	if err != nil {
		return Spread{}, fmt.Errorf("placement preference %q: %w", s, err)
	}
	return Spread{attribute: a, label: label, typed: key}, nil
}

// String returns the key as it was typed.
func (s Spread) String() string { return s.typed }

// value returns the branch that n belongs to.
func (s Spread) value(n *Node) string { return s.attribute.of(n, s.label) }
