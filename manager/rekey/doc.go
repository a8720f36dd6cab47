// Package rekey keeps a manager's keys as the log wants them, and rotates the
// cluster's data key (R20).
//
// On every manager it follows the cluster's record: the node's own keys are sealed
// under the unlock key there is, data keys that are offered are fetched from a peer
// and kept, and once an older one is out of use what it sealed is written anew and
// it is forgotten. On the leader it says which step a rotation takes. It does not
// seal (sealed and consensus do), keep files (the node's vault does) or serve calls
// (membership does).
//
// A rotation is three entries. Offered: the leader drew a key and kept it, and each
// manager gets it over a connection and keeps it under its own key. Active: a
// quorum, and every manager that answers, has kept it; new entries are under it.
// Settled: the first entry under it; none after it is under an older one, so each
// manager takes a snapshot, writes its log anew and forgets the older keys. Each
// is what the record says, so that a new leader goes on where the last one was, and
// a manager that was away does what it missed.
//
// Invariants: no data key is in an entry; a key is active only after a majority of
// the voters has kept it durably; no number is used for two keys; the node's keys
// are locked before a key that came after autolock is kept.
package rekey
