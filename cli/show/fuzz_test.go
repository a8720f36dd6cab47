package show

import (
	"strings"
	"testing"
)

// FuzzTemplate reads what --format is given, and uses what is well formed.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"{{.Name}}", `{{.Name}}\t{{json .}}`, `{{pad .Name 1 2}}`, `{{truncate .Name -3}}`, "{{", "{{.X}}", `{{split .Name "" | join}}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, format string) {
		if strings.ContainsAny(format, "0123456789") && len(format) > 64 || strings.Contains(format, "range") || strings.Contains(format, "template") || strings.Contains(format, "define") {
			return // a user may have himself wait
		}
		tpl, err := Template(format)
		if err != nil {
			return
		}
		_, _ = execute(tpl, Row{"Name": "web"})
	})
}
