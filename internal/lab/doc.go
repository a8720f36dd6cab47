// Package lab puts several hosts on one machine, so that a cluster can be
// tested by pulling plugs.
//
// A lab owns a bridge and the hosts on it. A host is a network, PID, mount,
// UTS, IPC and cgroup namespace with an init of the lab's own as its first
// process, a private /etc, /run, /tmp and /var/lib, and a directory that
// outlives its boots. Killing the init therefore kills daemon, containerd,
// shims and containers at once, which is what a power cut does; the link goes
// dark first, so no peer hears a goodbye. A registry on the bridge serves
// library/alpine, made from the machine's static busybox.
//
// The lab knows nothing of swarms: it runs commands on hosts, cuts wires and
// says what happened. It needs root and Linux.
//
// A program that uses it calls Init first thing in main or TestMain, because
// the hosts' inits are that same program, started again.
//
// Invariant: everything a lab makes outside its directory (links, cgroups)
// carries the lab's name, and the name says which process owns it; so a later
// lab can remove what a crashed one left.
package lab
