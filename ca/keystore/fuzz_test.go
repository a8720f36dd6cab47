package keystore

import (
	"bytes"
	"os"
	"testing"
)

// FuzzFiles reads whatever somebody put in the place of a node's files: it is refused
// or opened, and no error quotes it.
func FuzzFiles(f *testing.F) {
	f.Add(make([]byte, kekBytes), []byte(`{"format":1,"sha256":"","body":{}}`))
	f.Add(make([]byte, 2*kekBytes), []byte(`{}`))
	f.Add([]byte(`{"format":1,"number":3,"sealed":"AQID"}`), []byte(`[`))
	f.Add([]byte(`{"format":1,"clear":"AAAA"}`), []byte(nil))
	root, err := os.OpenRoot(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = root.Close() })
	f.Fuzz(func(t *testing.T, kek, identity []byte) {
		s := &Store{dir: root}
		err := s.openKEK(kek)
		if err == nil && s.kek.IsZero() && len(s.lock.closed) == 0 {
			t.Error("a store is neither open nor locked")
		}
		if err != nil && len(kek) >= 8 && bytes.Contains([]byte(err.Error()), kek) {
			t.Errorf("an error quotes the key's file: %v", err)
		}
		b, err := readBody(identity)
		if err != nil && len(identity) >= 16 && bytes.Contains([]byte(err.Error()), identity) {
			t.Errorf("an error quotes the identity's file: %v", err)
		}
		if err == nil {
			_, _ = unlisted(b.Managers)
			_, _ = (&Node{Chain: b.Chain, Roots: b.Roots}).Credential()
		}
	})
}
