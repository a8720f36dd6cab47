package registry_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skep-project/skep/cli/registry"
)

// configure gives this process a Docker configuration of its own, with helpers
// that are shell scripts by name.
func configure(t *testing.T, config string, helpers map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, script := range helpers {
		if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestTheRegistryOfAnImage(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"alpine": "docker.io", "library/alpine:3": "docker.io", "bee/app": "docker.io", "r.test/app": "r.test",
		"r.test:5000/a/b@sha256:" + strings.Repeat("0", 64): "r.test:5000", "localhost/app": "localhost", "A B": "", "": "",
	} {
		if got := registry.Of(image); got != want {
			t.Errorf("%q is pulled from %q, want %q", image, got, want)
		}
	}
}

func TestWhatLoginLeftIsFound(t *testing.T) {
	both := func(user, secret string) string {
		return base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	}
	configure(t, fmt.Sprintf(`{
		"auths": {
			"https://index.docker.io/v1/": {"auth": %q},
			"r.test:5000": {"auth": %q},
			"token.test": {"auth": %q, "identitytoken": "long"},
			"bearer.test": {"registrytoken": "bearer"}
		},
		"credHelpers": {"helped.test": "good", "idtoken.test": "token", "logged-out.test": "empty"}
	}`, both("hub", "p1"), both("bee", "p:2"), both("bee", "")), map[string]string{
		"good":  `read host; echo "{\"Username\":\"helped\",\"Secret\":\"for $host\"}"`,
		"token": `echo '{"Username":"<token>","Secret":"refresh"}'`,
		"empty": `echo "credentials not found in native keychain"; exit 1`,
	})
	for host, want := range map[string]string{
		"docker.io": "hub/p1//", "r.test:5000": "bee/p:2//", "token.test": "bee//long/", "bearer.test": "///bearer",
		"helped.test": "helped/for helped.test//", "idtoken.test": "//refresh/",
		"logged-out.test": "none", "r.test": "none", "elsewhere.test": "none",
	} {
		auth, err := registry.Find(t.Context(), host)
		got := "none"
		if auth != nil {
			got = fmt.Sprintf("%s/%s/%s/%s", auth.GetUsername(), auth.GetPassword(), auth.GetIdentityToken(), auth.GetRegistryToken())
		}
		if err != nil || got != want || auth != nil && auth.GetRegistry() != host {
			t.Errorf("%s: %s (for %q), %v; want %s", host, got, auth.GetRegistry(), err, want)
		}
	}
}

func TestWhatCannotBeReadIsSaidAndNotQuoted(t *testing.T) {
	for words, config := range map[string]string{
		"config.json":               `{"auths": {"r.test": {"auth": "hunter2`,
		"base64":                    `{"auths": {"r.test": {"auth": "hunter2!"}}}`,
		"docker-credential-nowhere": `{"credHelpers": {"r.test": "nowhere"}}`,
		"the keychain is locked":    `{"credsStore": "locked"}`,
	} {
		t.Run(words, func(t *testing.T) {
			configure(t, config, map[string]string{"locked": `echo "the keychain is locked"; exit 1`})
			auth, err := registry.Find(t.Context(), "r.test")
			if err == nil || auth != nil || !strings.Contains(err.Error(), words) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v, %v; want an error with %q that quotes nothing", auth, err, words)
			}
		})
	}
}

func TestAHelperThatHangsIsLeftAtTheEndOfTheCommand(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	configure(t, `{"credsStore": "slow"}`, map[string]string{"slow": "exec cat <" + gate})
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := registry.Find(ctx, "r.test"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the command's own end", err)
	}
	open, err := os.OpenFile(gate, os.O_WRONLY, 0) // when the helper waits at it
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
}
