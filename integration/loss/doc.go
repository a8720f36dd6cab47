// Package loss does to a swarm on lab hosts what may befall one, and knows how
// long it was felt.
//
// It owns the losses and what is promised of each. Raising the fleet, repeating
// trials and telling the figures are its users' affair.
//
// Invariant: after a trial that succeeded every host has power and a daemon
// again; that the swarm is whole is waited for before the next.
package loss
