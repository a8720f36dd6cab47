package schedule

import (
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestConstraintsMatchTheNodesTheyName(t *testing.T) {
	t.Parallel()
	node := &Node{
		ID: id.ID{15: 7}, Hostname: "dev01", Address: "10.1.2.3", Role: modelv1.Role_ROLE_MANAGER,
		Labels: map[string]string{"Zone": "a", "disk": "SSD"}, EngineLabels: map[string]string{"gpu": "yes"},
		OS: "linux", Architecture: "x86_64",
	}
	for _, tt := range []struct {
		constraint string
		match      bool
	}{
		{"node.id==" + node.ID.String(), true},
		{"node.id!=" + node.ID.String(), false},
		{"node.hostname==DEV01", true},
		{" node.hostname == dev01 ", true},
		{"Node.Hostname==dev01", true},
		{"node.hostname==dev0", false},
		{"node.role==manager", true},
		{"node.role!=worker", true},
		{"node.ip==10.1.2.3", true},
		{"node.ip==10.1.0.0/16", true},
		{"node.ip!=10.1.0.0/16", false},
		{"node.ip==fd00::/8", false},
		{"node.platform.os==linux", true},
		{"node.platform.arch==amd64", true},
		{"node.platform.arch==aarch64", false},
		{"node.labels.Zone==a", true},
		{"NODE.LABELS.Zone==A", true},
		{"node.labels.zone==a", false}, // a label's name keeps its case
		{"node.labels.disk==ssd", true},
		{"node.labels.none==a", false},
		{"node.labels.none!=a", true},
		{"engine.labels.gpu==yes", true},
	} {
		c, err := ParseConstraint(tt.constraint)
		if err != nil {
			t.Errorf("ParseConstraint(%q): %v", tt.constraint, err)
			continue
		}
		if got := c.Match(node); got != tt.match {
			t.Errorf("%q matches: %t, want %t", tt.constraint, got, tt.match)
		}
		if c.String() != tt.constraint {
			t.Errorf("%q prints as %q", tt.constraint, c)
		}
	}
	if (Constraint{}).Match(node) {
		t.Error("the zero constraint matches")
	}
}

func TestAMalformedConstraintIsRefusedInWords(t *testing.T) {
	t.Parallel()
	for constraint, words := range map[string]string{
		"":                          `want "key==value"`,
		"node.role=manager":         `want "key==value"`,
		"node.role==":               "no value after the operator",
		"==a":                       "no key before the operator",
		"node.role==boss":           `role "boss"`,
		"node.colour==red":          `unknown key "node.colour"`,
		"node.labels.==a":           "is not the name of a label",
		"node.labels.a b==c":        "is not the name of a label",
		"node.ip==10.1.2":           `"10.1.2" is neither an address nor a network`,
		"node.hostname==a==b":       "holds a character",
		"node.labels.a==b\nsecret!": "holds a character",
	} {
		_, err := ParseConstraint(constraint)
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("ParseConstraint(%q) = %v, want one that says %s", constraint, err, words)
		}
	}
}

// FuzzParseConstraint holds the parser to what must be true of every answer: it
// does not panic, an error quotes the input, and what was read is read again.
func FuzzParseConstraint(f *testing.F) {
	for _, s := range []string{"node.role==manager", "node.labels.zone!=a", "node.ip==10.0.0.0/8", "engine.labels.x == y",
		"==", "!=", "node.ip==::ffff:1.2.3.4", "node.ip==fe80::1%eth0", "a!==b", "node.labels.a!=b==c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseConstraint(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "constraint ") {
				t.Errorf("error of %q does not say what it is about: %v", s, err)
			}
			return
		}
		n := &Node{Hostname: s, Address: "10.0.0.1", Labels: map[string]string{c.label: c.value}}
		same, err := ParseConstraint(c.String())
		if err != nil || same != c || same.Match(n) != c.Match(n) {
			t.Errorf("%q read again: %+v, %v; want %+v", s, same, err, c)
		}
		if c.attribute == attributeLabel && c.Match(n) == c.not {
			t.Errorf("%q does not hold of a node with the very label", s)
		}
	})
}
