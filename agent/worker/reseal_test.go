package worker

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

func TestAJournalIsSealedUnderAnotherKeyWhileItIsUsed(t *testing.T) {
	t.Parallel()
	dir, cluster, node := root(t), id.New(), id.New()
	first, second := sealed.NewSecret(slices.Repeat([]byte{1}, 32)), sealed.NewSecret(slices.Repeat([]byte{2}, 32))
	j, err := OpenJournal(dir, first, cluster, node)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir.Name(), JournalName)
	before, err := os.ReadFile(path)
	if err := errors.Join(err, os.WriteFile(filepath.Join(dir.Name(), resealName), []byte("of a crash"), 0o600)); err != nil {
		t.Fatal(err)
	}
	head, err := j.load()
	if err := errors.Join(err, j.Reseal(second), j.Reseal(second)); err != nil {
		t.Fatal(err)
	}
	hold := write{table: tableFacts, key: factHold, value: []byte("12345678")}
	if err := j.commit(j.queue(hold)); err != nil {
		t.Fatalf("it is not written any more: %v", err)
	}
	c, err := j.load()
	if err != nil || !bytes.Equal(c.head.GetNode(), head.head.GetNode()) || c.hold.IsZero() {
		t.Errorf("read %v, %v", c.head, err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(dir, first, cluster, node); !errors.Is(err, sealed.ErrWrongKey) {
		t.Errorf("the first key opens it with %v", err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The salt of the head's row, as the first key sealed it.
	at := bytes.Index(before, append([]byte("head"), 1))
	if at < 0 || bytes.Contains(after, before[at+5:at+5+sealed.SaltBytes]) {
		t.Errorf("a row that the first key sealed is left in the file (at %d)", at)
	}
	if j, err = OpenJournal(dir, second, cluster, node); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAJournalThatACrashLeftUnderTheFormerKeyIsSealedAnew(t *testing.T) {
	t.Parallel()
	dir, cluster, node := root(t), id.New(), id.New()
	former, kek := sealed.NewSecret(slices.Repeat([]byte{1}, 32)), sealed.NewSecret(slices.Repeat([]byte{2}, 32))
	if err := ResealJournal(dir, former, kek, cluster, node); err != nil {
		t.Fatalf("no journal is none to seal: %v", err)
	}
	j, err := OpenJournal(dir, former, cluster, node)
	if err := errors.Join(err, j.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time it is done already
		if err := ResealJournal(dir, former, kek, cluster, node); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenJournal(dir, former, cluster, node); !errors.Is(err, sealed.ErrWrongKey) {
		t.Errorf("the former key opens it with %v", err)
	}
	if err := ResealJournal(dir, former, sealed.NewSecret(slices.Repeat([]byte{3}, 32)), cluster, node); !errors.Is(err, sealed.ErrWrongKey) {
		t.Errorf("a journal under neither key gives %v", err)
	}
}
