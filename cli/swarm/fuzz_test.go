package swarm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skep-project/skep/ca"
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
		_, _ = readCert("ca-cert", c)
		_, err := readKey(k)
		for part := range strings.FieldsSeq(key) {
			if err != nil && len(part) >= 16 && !strings.Contains(part, "-----") && strings.Contains(err.Error(), part) {
				t.Errorf("an error quotes the key: %v", err)
			}
		}
	})
}

// FuzzExternalCA reads where an external CA is: what is taken can be called and has
// what it must.
func FuzzExternalCA(f *testing.F) {
	for _, text := range []string{"protocol=cfssl,url=https://ca.example:8888", "protocol=cfssl,url=https://ca/,label=x", "url=http://ca", "protocol=cfssl,,url=", "protocol=cfssl,url=https://a,url=https://b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "cacert") || strings.Contains(text, "authkey") {
			t.Skip("it names files")
		}
		at, err := parseExternal(text)
		if err == nil && (ca.CheckExternal(at.GetUrl()) != nil || len(at.GetAuthKey()) > 0 || len(at.GetTrust()) > 0) {
			t.Errorf("%q is taken for %v", text, at)
		}
	})
}
