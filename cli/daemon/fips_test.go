package daemon

import (
	"slices"
	"testing"
)

func TestTheEnvironmentAsksForFIPSModeOnceAndKeepsTheRest(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, was, want string }{
		{"nothing was set", "", "GODEBUG=fips140=on"},
		{"another setting stays", "GODEBUG=madvdontneed=1", "GODEBUG=madvdontneed=1,fips140=on"},
		{"off gives way", "GODEBUG=fips140=off,madvdontneed=1", "GODEBUG=madvdontneed=1,fips140=on"},
	} {
		env := []string{"HOME=/root"}
		if tt.was != "" {
			env = append(env, tt.was)
		}
		got, err := fipsEnvironment(env)
		if want := []string{"HOME=/root", tt.want}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v, want %q", tt.name, got, err, want)
		}
	}
}

// TestAProgramThatCannotIsNotStartedForEver: it would find itself as it is now.
func TestAProgramThatCannotIsNotStartedForEver(t *testing.T) {
	t.Parallel()
	for _, was := range []string{"GODEBUG=fips140=on", "GODEBUG=a=b,fips140=only"} {
		if got, err := fipsEnvironment([]string{was}); err == nil {
			t.Errorf("%s: starts again with %q", was, got)
		}
	}
}
