package seal_test

import (
	"bufio"
	"bytes"
	"io"
	"testing"

	"github.com/skep-project/skep/manager/backup/seal"
)

// FuzzOpen opens what is no sealed file of ours: nothing comes out of it that was not
// sealed.
func FuzzOpen(f *testing.F) {
	public, secret := pair(f)
	lock, err := seal.ToKeys(public)
	if err != nil {
		f.Fatal(err)
	}
	key, err := seal.Identities([]byte(secret))
	if err != nil {
		f.Fatal(err)
	}
	text := []byte("all that there is")
	whole := closed(f, lock, text)
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte("age-encryption.org/v1\n-> scrypt "))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = seal.Look(bufio.NewReader(bytes.NewReader(data)))
		r, err := key.Open(bytes.NewReader(data))
		if err != nil {
			return
		}
		if out, err := io.ReadAll(r); err == nil && !bytes.Equal(out, text) {
			t.Errorf("%q comes out", out)
		}
		if _, err := seal.Identities(data); err == nil && !bytes.Contains(data, []byte("AGE-SECRET-KEY-1")) {
			t.Errorf("%q is an identity", data)
		}
	})
}
