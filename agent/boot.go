package agent

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
)

// BootIDFile is where the kernel says which boot this is.
const BootIDFile = "/proc/sys/kernel/random/boot_id"

// BootID returns the 16 bytes in path, which tell a rebooted host from a
// restarted daemon (R4). Empty means [BootIDFile].
func BootID(path string) ([]byte, error) {
	if path == "" {
		path = BootIDFile
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("boot id: %w", err)
	}
	boot, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(boot) != 16 {
		return nil, fmt.Errorf("boot id: %s holds %.40q, want 32 hexadecimal digits", path, text)
	}
	return boot, nil
}
