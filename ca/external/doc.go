// Package external has a CA outside of the swarm sign, by the API of cfssl.
//
// It owns the way there: which of several servers is asked, for how long, how many
// at once, how one proves who asks, and how each of them is (Health). What is asked
// and whether the answer is what was asked is ca/issue's to say; what becomes of it,
// ca/authority's.
//
// An answer is taken from nobody at his word: each goes to the caller's judge, and one
// that is refused counts as a failure of the server that gave it.
//
// Invariant: the key of authenticated signing is in no error, log or address, and an
// answer that the judge has refused goes no further.
package external
