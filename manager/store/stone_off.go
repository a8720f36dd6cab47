//go:build !invariants

package store

// checked says which build this is.
const checked = false

// lay and lift hold objects to what they were when they were put, in a build with
// the tag invariants; in this one they do nothing.
func lay[T any](T) {}

func lift[T any](T) {}
