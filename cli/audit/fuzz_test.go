package audit

import (
	"bytes"
	"encoding/pem"
	"slices"
	"testing"
)

// FuzzRoots reads what --root names: what is read is read again when it is written.
func FuzzRoots(f *testing.F) {
	one := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}})
	f.Add(one)
	f.Add(append(slices.Clone(one), append([]byte("between\n"), one...)...))
	f.Add(bytes.ReplaceAll(one, []byte("CERTIFICATE"), []byte("PRIVATE KEY")))
	f.Add([]byte("-----BEGIN CERTIFICATE-----"))
	f.Fuzz(func(t *testing.T, text []byte) {
		roots := rootsIn(text)
		var out []byte
		for _, der := range roots {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		}
		if again := rootsIn(out); !slices.EqualFunc(roots, again, bytes.Equal) {
			t.Errorf("%q is %x, and that %x", text, roots, again)
		}
	})
}
