// Package adversary attacks a swarm, from the outside and from within.
//
// Each test is named after the attack and mounts it once, end to end, on a swarm of
// real processes: managers, a worker and strangers on the loopback, with TLS and
// sockets of the kernel's. What an attack is made of (a forged leaf, a stolen key, a
// header) is made here; that it gets nowhere is what is shown, and where the refusal
// can be read by whoever is attacked, that it says so. Variants that need another
// clock, another network or a crash at a certain moment are in integration/bubble and
// beside the packages; docs/threat-model.md names them all.
//
// The swarm is made once and shared: a test leaves three managers and a worker behind.
package adversary
