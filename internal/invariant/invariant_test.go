package invariant

import "testing"

func TestABrokenTruthPanicsWithItsWords(t *testing.T) {
	t.Parallel()
	Check(true, "not said")
	defer func() {
		if got, want := recover(), "invariant: 1 is 2"; got != want {
			t.Errorf("panic = %v, want %q", got, want)
		}
	}()
	Check(false, "%d is %d", 1, 2)
}
