package sealed

import (
	"bytes"
	"strings"
	"testing"
)

func TestAnUnlockKeyIsReadAsItWasSpelled(t *testing.T) {
	t.Parallel()
	key := NewUnlockKey()
	text := string(SpellUnlockKey(key).Reveal())
	if !strings.HasPrefix(text, "SKEPKEY-1-") || len(text) != 66 {
		t.Errorf("spelled in %d letters, want SKEPKEY-1- and 56", len(text))
	}
	for _, typed := range []string{text, text + "\r\n", strings.ToLower(text), text[:20] + " " + text[20:]} {
		if got, err := ParseUnlockKey(NewSecret([]byte(typed))); err != nil || !got.Equal(key) {
			t.Errorf("a key typed with %d bytes is not the same: %v", len(typed), err)
		}
	}
}

func TestASlipOfTheFingerIsToldFromAnotherKey(t *testing.T) {
	t.Parallel()
	text := SpellUnlockKey(NewUnlockKey()).Reveal()
	for at := len(unlockPrefix); at < len(text); at++ {
		slip := bytes.Clone(text)
		if slip[at]++; slip[at] == 'Z'+1 {
			slip[at] = 'A'
		}
		_, err := ParseUnlockKey(NewSecret(slip))
		if err == nil {
			t.Errorf("letter %d is wrong and nobody says so", at)
		}
		if err != nil && strings.Contains(err.Error(), string(slip[20:40])) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
	for _, bad := range []string{"", "SKEPKEY-1-", "SWMKEY-1-abc", string(text[:60]), string(text) + "A", strings.Repeat("x", MaxUnlockText+1)} {
		if _, err := ParseUnlockKey(NewSecret([]byte(bad))); err == nil {
			t.Errorf("%d letters: taken for a key", len(bad))
		}
	}
}

// FuzzUnlockKey holds that whatever is read is spelled in one way.
func FuzzUnlockKey(f *testing.F) {
	f.Add(SpellUnlockKey(NewSecret(make([]byte, KeyBytes))).Reveal())
	f.Add([]byte("SKEPKEY-1-"))
	f.Add([]byte("skepkey-1-7777777777777777777777777777777777777777777777777777777a"))
	f.Fuzz(func(t *testing.T, text []byte) {
		key, err := ParseUnlockKey(NewSecret(text))
		if err != nil {
			return
		}
		again, err := ParseUnlockKey(SpellUnlockKey(key))
		if err != nil || !again.Equal(key) || key.Len() != KeyBytes {
			t.Errorf("%q is a key of %d bytes that is not read again: %v", text, key.Len(), err)
		}
	})
}
