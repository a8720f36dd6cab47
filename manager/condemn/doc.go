// Package condemn carries out the wish that nothing be worth anything any more
// that some managers knew: they may be in somebody else's hands.
//
// The steps are entries of the cluster's record, so that a new leader goes on where
// the last one was. Out: the condemned are no managers any more; membership sees to
// that. Data key: what is written from now on is sealed under a key that they do not
// have; rekey sees to that. Only then, in one entry that they cannot open, the next
// unlock key and the next root are written, and the root is rotated; rotation sees to
// that. When the former root is trusted no more, standing tokens are made anew. From
// the wish on until then there are no join tokens: who joins by one trusts the root
// that it pins, and the condemned have its key.
//
// It does not take members out, draw data keys, make roots or rotate them: it says
// when.
//
// Invariant: no key is drawn for the place of one that the condemned have while an
// entry may still be sealed under a data key that they have.
package condemn
