package swarm

import (
	"encoding/hex"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
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

// FuzzSettings reads the values of settings: none that is taken is out of the bounds
// that the setting says.
func FuzzSettings(f *testing.F) {
	for i := range settings {
		for _, text := range []string{"10m", "2160h", "-1", "off", "on", "0s", "auto", "99999999999999999999", "5"} {
			f.Add(uint8(i), text)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		spec, s := &modelv1.ClusterSpec{}, settings[int(which)%len(settings)]
		err := s.set(spec, text)
		switch {
		case err != nil && err.Error() == "want":
			t.Errorf("--%s %q: an error without words", s.name, text)
		case err != nil:
			return
		}
		least := time.Duration(0)
		switch s.name {
		case "cert-expiry", "manager-cert-expiry":
			least = ca.MinExpiry
		case "lease":
			least = leastBeats * minHeartbeat
		case "dispatcher-heartbeat":
			least = minHeartbeat
		}
		for _, d := range []int64{spec.GetCertExpiry(), spec.GetManagerCertExpiry(), spec.GetLease(), spec.GetHeartbeatPeriod(), spec.GetExpiredGrace(), spec.GetTokenRotation(), spec.GetDeadManagerRemoval()} {
			if d < 0 || d != 0 && time.Duration(d) < least {
				t.Errorf("--%s %q is %v", s.name, text, time.Duration(d))
			}
		}
	})
}

// FuzzKeyFiles reads files with certificates and keys: what is read is read again when
// it is written, and no error quotes a key.
func FuzzKeyFiles(f *testing.F) {
	one := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	for _, text := range []string{one, one + "between\n" + one, strings.Repeat("0123456789abcdef", 4), "0123456789abcde", strings.Repeat("ab", 65), "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ""} {
		f.Add(text)
	}
	path := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ders, err := readCertificates(path)
		if err == nil && len(ders) == 0 {
			t.Errorf("%q holds no certificate and is taken", text)
		}
		key, err := readAuthKey(path)
		switch {
		case err != nil && len(text) >= 16 && strings.Contains(err.Error(), strings.TrimSpace(text)):
			t.Errorf("an error quotes the key: %v", err)
		case err == nil && !strings.EqualFold(hex.EncodeToString(key), strings.TrimSpace(text)):
			t.Errorf("%q is the key %x", text, key)
		}
	})
}
