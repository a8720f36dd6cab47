package cli

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/man"
	"github.com/skep-project/skep/cli/say"
)

// TestTheManualSaysWhatHelpSays compares the pages with the commands: every
// command has one, with every flag that is not hidden and its default.
func TestTheManualSaysWhatHelpSays(t *testing.T) {
	t.Parallel()
	app := newApp((&say.Streams{}).Filled())
	pages, err := man.Pages(app, man.Source{Version: "v1", Date: "2026-01-02"})
	if err != nil {
		t.Fatal(err)
	}
	text := map[string]string{}
	for _, p := range pages {
		text[p.Name] = strings.ReplaceAll(p.Text, `\-`, "-")
	}
	flags := 0
	leaves(app.Commands, nil, func(path string, c *cli.Command) {
		page, ok := text["ctl-"+strings.ReplaceAll(path, " ", "-")]
		if ok == c.Hidden {
			t.Errorf("ctl %s: hidden %v, has a page %v", path, c.Hidden, ok)
		}
		if c.Hidden {
			return
		}
		for _, f := range c.Flags {
			shown := strings.Contains(page, `\fB--`+f.Names()[0]+`\fR`)
			if visible := f.(cli.VisibleFlag).IsVisible(); shown != visible {
				t.Errorf("ctl %s: --%s is visible %v, on its page %v", path, f.Names()[0], visible, shown)
			}
			d := f.(cli.DocGenerationFlag)
			if text := strings.Trim(d.GetDefaultText(), `"`); shown && d.TakesValue() && text != "" && !strings.Contains(page, "Default: "+text+".") {
				t.Errorf("ctl %s: the page does not say that --%s is %q by default", path, f.Names()[0], text)
			}
			flags++
		}
	})
	if flags < 200 {
		t.Errorf("%d flags were looked at; there are more", flags)
	}
}
