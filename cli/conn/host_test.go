package conn_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
)

func TestParseHosts(t *testing.T) {
	t.Parallel()
	got, err := conn.ParseHosts("unix:///run/a.sock, /run/b.sock,")
	if diff := cmp.Diff([]conn.Host{{Path: "/run/a.sock"}, {Path: "/run/b.sock"}}, got); err != nil || diff != "" {
		t.Errorf("%v, hosts differ (-want +got):\n%s", err, diff)
	}
	for in, want := range map[string]string{
		"tcp://dev01:2375": "tcp is not served yet",
		"ssh://dev01":      "ssh is not served yet",
		"unix://ctl.sock":  "want an absolute path",
		"dev01:2377":       "want unix://PATH",
		" , ":              "names no address",
	} {
		if _, err := conn.ParseHosts(in); err == nil || !strings.Contains(err.Error(), want) || say.Code(err) != say.Misused {
			t.Errorf("ParseHosts(%q): %v, want %q", in, err, want)
		}
	}
}
