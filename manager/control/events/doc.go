// Package events tells what happens in a swarm: it turns the steps of the store
// into events that people and scripts read, and remembers the recent ones.
//
// It owns which change is an event and in which words, and the chronicle of
// them. It writes nothing and asks nobody; who may read, and how a reader is
// served, is control's.
//
// Invariants: an event follows from the state before and after one index and
// from nothing else, so every manager tells the same of an index (R13); indexes
// are kept and given whole; a reader that is slow or away loses the oldest events
// and learns that it did, and never holds up who applies.
package events
