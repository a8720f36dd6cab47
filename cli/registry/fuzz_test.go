package registry_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/skep-project/skep/cli/registry"
)

// FuzzConfig reads Docker configurations. Whatever lies there, what it holds for one
// registry is for no other, and no error quotes it; what a login left comes back.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"auths":{"r.test":{"auth":"YTpi"},"https://index.docker.io/v1/":{"username":"a","password":"b"}}}`), "bee", "hunter2")
	f.Add([]byte(`{"auths":{"r.test":{"identitytoken":"x","registrytoken":"y"}}}`), "bee", "hunter:2")
	f.Add([]byte(`{"credsStore":"none","credHelpers":{"r.test":"none"}}`), "<token>", "s")
	f.Add([]byte(`{"auths":{"r.test":null},"credHelpers":[]}`), "é", " ")
	f.Add([]byte("\xef\xbb\xbf{}"), "a", "b")
	dir := f.TempDir()
	f.Setenv("DOCKER_CONFIG", dir)
	f.Setenv("PATH", dir) // no helper is there to be run
	file := filepath.Join(dir, "config.json")
	f.Fuzz(func(t *testing.T, config []byte, user, secret string) {
		if err := os.WriteFile(file, config, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, host := range []string{"r.test", "docker.io"} {
			if auth, err := registry.Find(t.Context(), host); err == nil && auth != nil && auth.GetRegistry() != host {
				t.Errorf("of %s there is found %v", host, auth.GetRegistry())
			}
		}
		if !strings.Contains(string(config), "elsewhere") {
			if auth, _ := registry.Find(t.Context(), "elsewhere.test"); auth != nil {
				t.Errorf("%q has something for a registry that it does not name", config)
			}
		}
		if user == "" || secret == "" || strings.ContainsAny(user, ":\x00") || strings.Contains(secret, "\x00") || !utf8.ValidString(user+secret) {
			return // no login leaves that
		}
		left := map[string]any{"auths": map[string]any{"r.test": map[string]string{"auth": base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))}}}
		text, err := json.Marshal(left)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		auth, err := registry.Find(t.Context(), "r.test")
		if err != nil || auth.GetUsername() != user || string(auth.GetPassword()) != secret {
			t.Errorf("%q and %q come back as %q and %q, %v", user, secret, auth.GetUsername(), auth.GetPassword(), err)
		}
	})
}
