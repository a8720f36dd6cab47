package show

import (
	"strings"
	"testing"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
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

// FuzzFilters reads what --filter says: it is refused in words, or narrows by one
// thing more.
func FuzzFilters(f *testing.F) {
	for _, s := range []string{"name=web", "ROLE = manager", "membership=pending", "mode=global", "desired-state=running", "label=a=b", "node.label=", "=x", "x", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for what, known := range map[string]Filters{"node ls": Nodes, "service ls": Services, "service ps": ServiceTasks, "node ps": NodeTasks} {
			got := &controlv1.Filter{}
			if err := known.narrow(got, what, text); err != nil {
				continue
			}
			n := len(got.GetIds()) + len(got.GetNames()) + len(got.GetLabels()) + len(got.GetNodes()) + len(got.GetNodeLabels()) +
				len(got.GetRoles()) + len(got.GetMemberships()) + len(got.GetModes()) + len(got.GetDesired())
			if key, _, _ := strings.Cut(text, "="); n != 1 || known[strings.ToLower(strings.TrimSpace(key))] == nil {
				t.Errorf("%s: %q narrows by %d things", what, text, n)
			}
		}
	})
}
