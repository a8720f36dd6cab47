// Package version says which Skep this binary is.
//
// It owns two facts: the version a person reads, set by the linker, and the
// feature level a cluster compares. It decides nothing about either.
package version

// Version is what this binary calls itself. The build sets it to what git
// describes; a binary built without the Makefile says "dev".
var Version = "dev"

// FeatureLevel is the newest cluster behaviour this binary knows. A cluster
// runs at the lowest level of its managers; the number rises by one when a
// release writes something that an older one could not read, and never falls.
const FeatureLevel uint32 = 1
