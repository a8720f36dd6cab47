package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestWordsThatMakeNoSenseAreRefused(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	for _, name := range []string{"ctl", "containerd", "runc"} {
		if err := os.WriteFile(filepath.Join(bin, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for args, want := range map[string]string{
		"up -hosts 0 -bin BIN":          "want 1 to 20 hosts",
		"up -hosts 21 -bin BIN":         "want 1 to 20 hosts",
		"up -hosts 3 -swarm 4 -bin BIN": "no more managers than hosts",
		"up five -bin BIN":              "see lab -h",
		"up -bin /nowhere":              "make build runtime",
		"sh":                            "want a host",
		"log a b":                       "want a host",
		"ls":                            "no lab is up",
		"kill dev01":                    "no lab is up",
		"sh dev01":                      "no lab is up",
		"-bad ls":                       "see lab -h",
	} {
		var out bytes.Buffer
		at := filepath.Join(t.TempDir(), "at")
		line := append([]string{"-at", at}, strings.Fields(strings.ReplaceAll(args, "BIN", bin))...)
		if err := run(t.Context(), line, &out); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lab %s: %v, want %q", args, err, want)
		}
	}
}

func TestHelpNamesEveryDeed(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-h"}, &out); err != nil {
		t.Fatal(err)
	}
	for name := range deeds {
		if !strings.Contains(out.String(), name+" ") && !strings.Contains(out.String(), name+"\n") {
			t.Errorf("help says nothing of %s", name)
		}
	}
}
