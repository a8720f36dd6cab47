package disk

import (
	"strings"
	"testing"
)

// FuzzMeta reads what a log begins with, and FuzzStateName what a manifest calls a
// file: no name leads out of the directory.
func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{8, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseMeta(data); err == nil && m.GetFormat() != Format {
			t.Errorf("format %d is read", m.GetFormat())
		}
	})
}

func FuzzStateName(f *testing.F) {
	f.Add(StateName(1, 2))
	f.Add("../" + StateName(1, 2)[3:])
	f.Fuzz(func(t *testing.T, name string) {
		if stateName(name) && (strings.ContainsAny(name, "/\\") || len(name) != len(StateName(0, 0))) {
			t.Errorf("%q is the name of a state", name)
		}
	})
}
