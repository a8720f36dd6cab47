package man_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/man"
)

// pages writes about one command with these flags and this usage.
func pages(t testing.TB, usage string, flags ...cli.Flag) []man.Page {
	t.Helper()
	app := &cli.App{Name: "ctl", Usage: "operate", Commands: []*cli.Command{
		{Name: "make", Usage: usage, ArgsUsage: "THING...", Flags: flags},
		{Name: "secretly", Usage: "be asked", Hidden: true},
		{Name: "daemon", Usage: "run"},
	}}
	got, err := man.Pages(app, man.Source{Version: "v1", Date: "2026-01-02"})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEachCommandHasAPageAndTheDaemonsIsInSectionEight(t *testing.T) {
	t.Parallel()
	var files []string
	for _, p := range pages(t, "make things") {
		files = append(files, p.File())
	}
	if want := []string{"ctl.1", "ctl-make.1", "ctl-daemon.8"}; !slices.Equal(files, want) {
		t.Errorf("pages %q, want %q", files, want)
	}
}

func TestAFlagIsShownWithItsValueAndDefault(t *testing.T) {
	t.Parallel()
	page := pages(t, "make things",
		&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "`TIME` to wait"},
		&cli.StringFlag{Name: "role", Value: "worker", Usage: "worker or manager"},
		&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "`KEY=VALUE` to meet"},
		&cli.BoolFlag{Name: "quiet", Usage: "say nothing"},
		&cli.BoolFlag{Name: "odd", Hidden: true},
	)[1].Text
	for _, want := range []string{
		".TH CTL-MAKE 1 2026-01-02 \"Skep v1\"",
		`\fBctl make\fR [\fIOPTION\fR...] THING...`,
		"\\fB\\-\\-timeout\\fR \\fITIME\\fR\n\\fITIME\\fR to wait. Default: 1m0s.\n",
		"\\fB\\-\\-role\\fR \\fIVALUE\\fR\nworker or manager. Default: worker.\n",
		"\\fB\\-f\\fR \\fIKEY=VALUE\\fR, \\fB\\-\\-filter\\fR \\fIKEY=VALUE\\fR\n\\fIKEY=VALUE\\fR to meet. May be given several times.\n",
		"\\fB\\-\\-quiet\\fR\nsay nothing.\n",
		`\fBctl\fR(1)`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "odd") {
		t.Errorf("a hidden flag is shown:\n%s", page)
	}
}

// FuzzUsage: whatever a usage says, it is text and no request to roff.
func FuzzUsage(f *testing.F) {
	for _, usage := range []string{"make things", ".SH", "'br", `a \fB b`, "`X", "a\n.SH b", "`A` `B`", "\"q\"", "\r.x"} {
		f.Add(usage)
	}
	flag := func(usage string) cli.Flag { return &cli.StringFlag{Name: "flag", Usage: usage} }
	requests := func(p man.Page) (out []string) {
		for line := range strings.Lines(p.Text) {
			if line[0] == '.' || line[0] == '\'' {
				out = append(out, line)
			}
		}
		return out
	}
	plain := pages(f, "make things", flag("to make"))
	f.Fuzz(func(t *testing.T, usage string) {
		for i, p := range pages(t, usage, flag(usage)) {
			if got, want := requests(p), requests(plain[i]); !slices.Equal(got, want) {
				t.Errorf("usage %q makes the requests %q, want %q", usage, got, want)
			}
		}
	})
}
