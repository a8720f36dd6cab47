package service

import "testing"

// FuzzScale reads the words of "service scale".
func FuzzScale(f *testing.F) {
	for _, s := range []string{"web=3", "web=", "=3", "a=b=1", "web=-1", "web=99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseScale([]string{s})
		if err == nil && (len(got) != 1 || got[0].ref == "" || got[0].replicas > 1<<31) {
			t.Errorf("%q is %+v", s, got)
		}
	})
}
