package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
)

func root(t *testing.T) *os.Root {
	t.Helper()
	r, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestAFileIsReplacedWholeAndKeptPrivate(t *testing.T) {
	t.Parallel()
	dir := root(t)
	for _, want := range []string{"a longer first text", "short", ""} {
		if err := WriteFile(dir, "f", []byte(want)); err != nil {
			t.Fatal(err)
		}
		got, err := ReadFile(dir, "f")
		if err != nil || string(got) != want {
			t.Errorf("ReadFile = %q, %v; want %q", got, err, want)
		}
	}
	st, err := dir.Stat("f")
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode = %v, %v; want 0600", st.Mode(), err)
	}
	if _, err := dir.Stat("f" + suffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the unfinished file is still there: %v", err)
	}
}

func TestAWriteThatWasCutShortLeavesTheOldBytes(t *testing.T) {
	t.Parallel()
	dir := root(t)
	if err := WriteFile(dir, "f", []byte("old")); err != nil {
		t.Fatal(err)
	}
	if err := dir.WriteFile("f"+suffix, []byte("ha"), 0o600); err != nil { // as a crash leaves it
		t.Fatal(err)
	}
	if got, err := ReadFile(dir, "f"); err != nil || string(got) != "old" {
		t.Errorf("ReadFile = %q, %v; want old", got, err)
	}
	if err := WriteFile(dir, "f", []byte("new")); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadFile(dir, "f"); err != nil || string(got) != "new" {
		t.Errorf("ReadFile = %q, %v; want new", got, err)
	}
}

func TestRemoveIsIdempotent(t *testing.T) {
	t.Parallel()
	dir := root(t)
	if err := WriteFile(dir, "f", nil); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Remove(dir, "f"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ReadFile(dir, "f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadFile of a removed file: %v, want fs.ErrNotExist", err)
	}
}

func TestNoPathLeavesTheRoot(t *testing.T) {
	t.Parallel()
	if err := WriteFile(root(t), "../f", nil); err == nil {
		t.Error("a path outside the root was written")
	}
}

func TestALockHasOneHolderAndSaysWho(t *testing.T) {
	t.Parallel()
	dir := root(t)
	first, err := Lock(dir, "lock")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(dir, "lock")
	if want := fmt.Sprintf("process %d", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("second Lock: %v, want an error that names %s", err, want)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Lock(dir, "lock")
	if err != nil {
		t.Fatalf("Lock after the holder went: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

func TestFreeBytesIsPositive(t *testing.T) {
	t.Parallel()
	if n, err := FreeBytes(root(t)); err != nil || n == 0 {
		t.Errorf("FreeBytes = %d, %v", n, err)
	}
}
