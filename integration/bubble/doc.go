// Package bubble tests whole nodes in virtual time.
//
// Its tests run the daemon of every host as production does, with identities
// from real tokens, TLS, consensus on a disk and the agent's journal, in one
// process: the network is in memory and can be cut, refused and darkened, the
// runtime is exectest's, and the clock is that of a testing/synctest bubble. So
// a lease, an election or a day of renewals costs no waiting, and a bound in
// time is asserted without regard to the machine's load.
//
// Invariant: nothing in a bubble blocks on the world for long. Files are
// written and fsynced as always: time stands still meanwhile.
package bubble
