// Package store is the replicated truth of the cluster, in memory.
//
// It owns typed tables of objects, the deterministic apply that is the only way
// to change them, snapshots that readers share without a lock, the watches
// that tell of changes, the observer of every step, and the optimistic transactions that
// propose a change (DB). It does not own consensus, nor how anything is sealed or
// kept on disk: it is given committed bytes and gives proposals away.
//
// Invariants:
//
//   - Two stores that applied the same entries hold equal states: apply reads the
//     entry and the state and nothing else.
//   - What a Snapshot gives out is stone. It is shared with every other reader;
//     whoever wants a change clones it and puts the clone.
//   - A unit is applied whole or not at all, and a Snapshot holds an index whole
//     or not at all.
//   - A watcher that is woken finds at least the index it was woken for in the
//     next Snapshot it takes.
package store
