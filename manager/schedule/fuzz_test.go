package schedule

import "testing"

// FuzzParseSpread holds what a preference is read as to what it says of itself.
func FuzzParseSpread(f *testing.F) {
	for _, s := range []string{"node.labels.zone", "spread=engine.labels.a", "spread=", "node.labels.", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseSpread(s)
		if err != nil {
			return
		}
		if again, err := ParseSpread(got.String()); err != nil || again != got {
			t.Errorf("%q is %v, which is read as %v, %v", s, got, again, err)
		}
	})
}
