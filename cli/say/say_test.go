package say_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/skep-project/skep/cli/say"
)

func TestAnErrorIsOneLineAndAHintOneMore(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		err  error
		code int
		want string
	}{
		{"nothing", nil, say.Done, ""},
		{"a refusal", errors.New("no"), say.Refused, "ctl: no\n"},
		{"a misuse with a hint", say.Hinted(say.Misuse("what is %q", "x"), "try y"), say.Misused, "ctl: what is \"x\"\nctl: hint: try y\n"},
		{"the first hint stays", say.Hinted(say.Hinted(errors.New("no"), "one"), "two"), say.Refused, "ctl: no\nctl: hint: one\n"},
		{"a hint far down", fmt.Errorf("list: %w", say.Missing("start it", "nobody")), say.Unreachable, "ctl: list: nobody\nctl: hint: start it\n"},
		{"several, the gravest counts", errors.Join(errors.New("a"), say.Missing("", "b")), say.Unreachable, "ctl: a\nctl: b\n"},
		{"several lines", errors.New("a\nb"), say.Refused, "ctl: a; b\n"},
		{"an interrupt", context.Canceled, say.Refused, "ctl: interrupted\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var b bytes.Buffer
			if code := say.Report(&b, tt.err, nil); code != tt.code || b.String() != tt.want {
				t.Errorf("exit %d and %q, want %d and %q", code, b.String(), tt.code, tt.want)
			}
		})
	}
}
