package seal

import "github.com/skep-project/skep/internal/sealed"

// ToPassphraseCheaply is ToPassphrase without the second it takes.
func ToPassphraseCheaply(p sealed.Secret) (Lock, error) { return toPassphrase(p, 4) }

// ToApproved is ToApprovedPassphrase with other rounds.
func ToApproved(p sealed.Secret, rounds uint32) (Lock, error) { return toApproved(p, rounds) }
