package agent

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzBootID reads what the kernel calls a boot: 16 bytes, or nothing.
func FuzzBootID(f *testing.F) {
	f.Add("2d4f7c1e-0b3a-4c55-9f3e-0123456789ab\n")
	f.Add("2d4f7c1e0b3a4c559f3e0123456789ab")
	f.Add("----")
	f.Add("")
	path := filepath.Join(f.TempDir(), "boot_id")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		boot, err := BootID(path)
		if err == nil && !strings.EqualFold(hex.EncodeToString(boot), strings.ReplaceAll(strings.TrimSpace(text), "-", "")) {
			t.Errorf("%q is boot %x", text, boot)
		}
	})
}
