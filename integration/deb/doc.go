// Package deb installs, upgrades, removes and purges the Debian package on a lab
// host, as dpkg does it, with a swarm of one running on it.
//
// It owns that story (-tags lab). What is in the package is packaging's.
//
// Invariant: the machine's own files, and dpkg's account of them, are not
// touched: on the host, /usr and what dpkg writes to are layers of its own, and
// all else of the machine is read-only.
package deb
