package spec_test

import (
	"strings"
	"testing"

	"github.com/skep-project/skep/cli/spec"
)

// FuzzFlags reads any flags with any values, and a file of environment: it is refused
// in words or nothing in it is below zero.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{
		"replicas=3", "limit-cpu=0.5", "limit-cpu=1e999", "limit-memory=64m", "reserve-memory=1x", "ulimit=nofile=1:2", "env=A", "env-file=env",
		"update-delay=1h", "update-max-failure-ratio=2", "host=a:1", "placement-pref=spread=x", "label==", "entrypoint=sh -c 'a", "sysctl=a",
	} {
		f.Add(s, "A=b\n", "tty")
	}
	f.Fuzz(func(t *testing.T, one, file, other string) {
		h := spec.Host{Getenv: func(string) string { return "" }, ReadFile: func(string) ([]byte, error) { return []byte(file), nil }}
		svc, tpl, err := spec.Create(line{one, other, "env-file=x"}, h, []string{"alpine"})
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without words")
			}
			return
		}
		if tpl.GetLimits().GetNanoCpus() < 0 || tpl.GetLimits().GetMemoryBytes() < 0 || tpl.GetReservations().GetNanoCpus() < 0 || svc.GetUpdate().GetDelay() < 0 {
			t.Errorf("%q, %q: %v", one, other, tpl)
		}
		for _, e := range tpl.GetContainer().GetEnv() {
			if e == "" || strings.HasPrefix(e, "=") {
				t.Errorf("%q, %q, %q: environment %q", one, other, file, e)
			}
		}
	})
}
