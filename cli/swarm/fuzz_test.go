package swarm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzRoot reads the files of a root that an operator gives: no error quotes a key.
func FuzzRoot(f *testing.F) {
	const word = "MHcCAQEEIHh4eHh4eHh4eHh4"
	f.Add("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n-----BEGIN EC PRIVATE KEY-----\n"+word+"\n-----END EC PRIVATE KEY-----\n")
	f.Add("", "x")
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, cert, key string) {
		c, k := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
		for path, text := range map[string]string{c: cert, k: key} {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := readRoot(c, k)
		for part := range strings.FieldsSeq(key) {
			if err != nil && len(part) >= 16 && !strings.Contains(part, "-----") && strings.Contains(err.Error(), part) {
				t.Errorf("an error quotes the key: %v", err)
			}
		}
	})
}
