package swarm

import (
	"strings"
	"testing"

	"github.com/skep-project/skep/ca"
)

// FuzzParseExternal: what is taken is an address that managers take, too. No file is
// named, so none is read.
func FuzzParseExternal(f *testing.F) {
	f.Add("protocol=cfssl,url=https://one:8888,label=skep")
	f.Add("protocol=cfssl,url=https://one/,protocol=cfssl")
	f.Add("url=https://[::1]:8888")
	f.Add("=,,=")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "cacert") || strings.Contains(text, "authkey") {
			return
		}
		at, err := parseExternal(text)
		if err == nil && ca.CheckExternal(at.GetUrl()) != nil {
			t.Errorf("%q is at %q", text, at.GetUrl())
		}
	})
}
