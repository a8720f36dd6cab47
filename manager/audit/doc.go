// Package audit is the chain of what was done in a swarm and by whom: what a
// record says, how one follows from the other, and whether a chain is whole.
//
// It owns the form of a record, the trail that a state keeps, the checkpoints that
// the CA's key signs, the form of an export and its verification, which needs no
// daemon. What is recorded is for those who do it to say; who may read is
// control's.
//
// A record is a line of JSON. Its hash is the SHA-256 of the line's bytes without
// its end, and the next record begins with that hash: "sha256sum" shows it as well
// as this package does.
//
// Invariants: what Append makes follows from its arguments and the trail alone, so
// every replica has the same lines; no line is changed once it is made; what is
// dropped is told of by a record behind it.
package audit
