package daemon

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// keepMemory keeps what this process knows, keys and all, to itself: the kernel
// writes no core of it when it dies, wherever cores go, and lets no other process of
// its user look into it. Root still may. What the daemon starts is not meant: a
// container whose program crashes may leave a core, as its limits say.
func keepMemory() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("keep memory out of cores: %w", err)
	}
	return nil
}
