package exec

import (
	"errors"
	"testing"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func expanded(t *testing.T, text string) (string, error) {
	t.Helper()
	s := Spec{
		Task: id.MustParse("0000000000000000000000001"), Slot: 3, ServiceName: "web",
		ServiceLabels: map[string]string{"tier": "front"}, NodeHostname: "h1",
		Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Hostname: text}},
	}
	got, err := Expand(s)
	if s.Template.Container.Hostname != text {
		t.Errorf("the spec's own template was changed to %q", s.Template.Container.Hostname)
	}
	return got.GetContainer().GetHostname(), err
}

func TestExpand(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain": "plain",
		"{{.Service.Name}}-{{.Task.Slot}}.{{.Node.Hostname}}": "web-3.h1",
		`{{index .Service.Labels "tier"}}`:                    "front",
		"{{.Service.Labels.tier}}":                            "front",
		"{{.Task.Name}}":                                      "web.3.0000000000000000000000001",
	} {
		if got, err := expanded(t, text); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestAPlaceholderWithoutSenseIsRejected(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"{{.Secret}}", "{{", "{{range 1000000000}}x{{end}}", `{{printf "%999999d" 1}}`, "{{.Service.Labels.none}}",
	} {
		if got, err := expanded(t, text); !errors.Is(err, ErrRejected) {
			t.Errorf("%s: %.20q, %v; want it rejected", text, got, err)
		}
	}
}

func TestARejectionReadsAsItsCause(t *testing.T) {
	t.Parallel()
	cause := errors.New("no such image: x")
	err := Rejected(cause)
	if err.Error() != cause.Error() || !errors.Is(err, ErrRejected) || !errors.Is(err, cause) {
		t.Errorf("rejected %q: want the words of %q, and to be both", err, cause)
	}
}
