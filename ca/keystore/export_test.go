package keystore

import (
	"errors"
	"os"

	"github.com/skep-project/skep/internal/durable"
)

// ErrPower is what a store that lost its power says.
var ErrPower = errors.New("the power is gone")

// LosePowerAt makes the n-th write of a file from now on, counted from 0, the last:
// it happens if done, and fails in any case, as do all after it.
func (s *Store) LosePowerAt(n int, done bool) {
	s.write = func(dir *os.Root, name string, data []byte) error {
		n--
		if n >= 0 {
			return durable.WriteFile(dir, name, data)
		}
		if n == -1 && done {
			if err := durable.WriteFile(dir, name, data); err != nil {
				return err
			}
		}
		return ErrPower
	}
}

// Heal has writes succeed again.
func (s *Store) Heal() { s.write = durable.WriteFile }
