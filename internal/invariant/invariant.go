// Package invariant ends the process when a truth of the house is broken.
//
// It is for what no input, peer or disk can cause: a replica that doubts itself
// must not vote. Everything the world can cause is an error instead.
package invariant

import "fmt"

// Check panics when ok is false. The words say which truth was broken and with
// what values.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}
