// Package fleet is a swarm on lab hosts for programs that measure or torment it:
// managers, workers, and connections to any of their daemons from outside.
//
// It owns the hosts' way into one swarm and back after a fault. What is done to
// them, and what must be true then, is its users' affair. A program that uses it
// calls lab.Init before anything else.
package fleet
