// Package many lives the life of three and of five managers on real hosts: they
// join and turn at once, lose any minority and all power, are restarted under
// load, fall behind, move to other addresses and are paused.
//
// It holds tests only, with the tag lab. Its writers run on the hosts, by the
// client that ctl is made of, and note what was acknowledged to them; after each
// thing that is done to the swarm, every manager must know all of it.
package many
