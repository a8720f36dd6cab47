package external

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"strings"
	"testing"
	"unicode"
)

// FuzzAnswer reads what a server says that was taken over: what is shown of it is one
// short line that can be printed, and of certificates there is one or none.
func FuzzAnswer(f *testing.F) {
	one := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}))
	for _, certificate := range []string{one, one + one, one + " \n", "", "-----BEGIN CERTIFICATE-----", strings.ReplaceAll(one, "CERTIFICATE", "PRIVATE KEY")} {
		text, err := json.Marshal(map[string]any{"success": true, "result": map[string]string{"certificate": certificate}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(200, text)
	}
	f.Add(400, []byte(`{"success":false,"errors":[{"code":7400,"message":"no\u001b[2Jsuch\nprofile"}]}`))
	f.Add(502, []byte("<html>\x1b]0;a\x07"))
	f.Add(0, []byte(`{"success":"yes"}`))
	f.Fuzz(func(t *testing.T, code int, text []byte) {
		got, err := readAnswer(code, text)
		if err == nil {
			var der []byte
			if der, err = certificateIn(got); err == nil {
				got.Result.Certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
				if again, err := certificateIn(got); err != nil || !bytes.Equal(again, der) {
					t.Errorf("%q is the certificate %x, which is read again as %x, %v", text, der, again, err)
				}
			}
		}
		if err == nil {
			return
		}
		if words := err.Error(); len(words) > 5*maxWords || strings.ContainsFunc(words, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("of %q is said %q", text, words)
		}
	})
}
