package private

import "testing"

// FuzzMajor reads what a containerd says its version is.
func FuzzMajor(f *testing.F) {
	for _, line := range []string{"containerd github.com/containerd/containerd/v2 v2.3.7 abc", "containerd x 1.6.20~ds1 y", "containerd", "", "x"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if n, err := parseMajor(line); err != nil && n != 0 {
			t.Errorf("%q is refused and is %d", line, n)
		}
	})
}
