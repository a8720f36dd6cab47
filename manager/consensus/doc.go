// Package consensus makes a quorum of managers agree on one order of entries.
//
// It owns the raft core and its three goroutines: one steps the core and does
// no I/O, one appends to the log on disk, one applies what is committed to the
// Machine. It owns the sealing of entries, their sequence numbers, the fate of
// every proposal, reads at a quorum's index, snapshots and membership. It does
// not know what a transaction means (the store does), who may call (rpc does)
// or what a leader does with its office (the manager's tenure does).
//
// Core and Applier are stepped: they hold no goroutine, clock or file, so the
// simulator drives the same code as Runner does.
//
// Invariant: a proposal is answered exactly once: applied, conflicted, refused
// (it will never be applied) or unknown (it may have been).
//
// Invariant: what the Machine is given is, on every member, the same sequence
// of (index, clock, transactions), each header one step after the one before.
package consensus
