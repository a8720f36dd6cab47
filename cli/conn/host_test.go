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
	got, err := conn.ParseHosts("unix:///run/a.sock, /run/b.sock,tcp://dev01, tcp://10.0.0.1:2400,tcp://[fe80::1]:9,tcp://fe80::2,tcp://[fe80::3]")
	want := []conn.Host{
		{Path: "/run/a.sock"}, {Path: "/run/b.sock"}, {Address: "dev01:2377"}, {Address: "10.0.0.1:2400"},
		{Address: "[fe80::1]:9"}, {Address: "[fe80::2]:2377"}, {Address: "[fe80::3]:2377"},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v, hosts differ (-want +got):\n%s", err, diff)
	}
	for in, want := range map[string]string{
		"tcp://":           "want tcp://HOST[:PORT]",
		"tcp://dev01:0":    "want tcp://HOST[:PORT]",
		"tcp://dev01:port": "want tcp://HOST[:PORT]",
		"tcp://a:b:c":      "want tcp://HOST[:PORT]",
		"tcp://dev01/x":    "want tcp://HOST[:PORT]",
		"ssh://dev01":      "ssh is not served",
		"unix://ctl.sock":  "want an absolute path",
		"dev01:2377":       "want unix://PATH",
		" , ":              "names no address",
	} {
		if _, err := conn.ParseHosts(in); err == nil || !strings.Contains(err.Error(), want) || say.Code(err) != say.Misused {
			t.Errorf("ParseHosts(%q): %v, want %q", in, err, want)
		}
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add("unix:///run/a.sock,tcp://dev01")
	f.Add("tcp://[::1]:2377,tcp://[::1")
	f.Add("tcp://a:b:c,ssh://x")
	f.Add("tcp://[0[0")
	f.Fuzz(func(t *testing.T, list string) {
		hosts, err := conn.ParseHosts(list)
		if err != nil {
			return
		}
		for _, h := range hosts {
			if (h.Path == "") == (h.Address == "") {
				t.Errorf("%q names %+v", list, h)
			}
			if again, err := conn.ParseHosts(h.String()); h.Address != "" && (err != nil || len(again) != 1 || again[0].Address != h.Address) {
				t.Errorf("%q reads as %s, which reads as %v, %v", list, h, again, err)
			}
		}
	})
}
