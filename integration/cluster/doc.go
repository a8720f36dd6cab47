// Package cluster lives the life of a swarm on real hosts: nodes join, turn,
// move, leave and are killed at the worst moments.
//
// It holds tests only, with the tag lab; how hosts are made is internal/lab's.
package cluster
