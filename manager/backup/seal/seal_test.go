package seal_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/backup/seal"
)

func pair(t testing.TB) (public, secret string) {
	t.Helper()
	i, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return i.Recipient().String(), i.String()
}

func closed(t testing.TB, l seal.Lock, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := l.Close(&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func opened(k seal.Key, data []byte) ([]byte, error) {
	r, err := k.Open(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func identities(t testing.TB, text string) seal.Key {
	t.Helper()
	k, err := seal.Identities([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEachRecipientOpensAndNobodyElse(t *testing.T) {
	t.Parallel()
	a, secretA := pair(t)
	b, secretB := pair(t)
	_, stranger := pair(t)
	l, err := seal.ToKeys("# the one\n\n"+a+"\n", b)
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("the state of a swarm")
	data := closed(t, l, text)
	for _, secret := range []string{secretA, "# created: today\n" + secretB + "\n"} {
		if got, err := opened(identities(t, secret), data); err != nil || !bytes.Equal(got, text) {
			t.Errorf("a recipient: %q, %v", got, err)
		}
	}
	if _, err := opened(identities(t, stranger), data); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("a stranger: %v, want %v", err, seal.ErrWrongKey)
	}
	if got := seal.Look(bufio.NewReader(bytes.NewReader(data))); got != seal.NeedsIdentity {
		t.Errorf("it looks as if it needed %v", got)
	}
}

func TestAPassphraseOpensWhatItClosed(t *testing.T) {
	t.Parallel()
	l, err := seal.ToPassphraseCheaply(sealed.NewSecret([]byte("open sesame")))
	if err != nil {
		t.Fatal(err)
	}
	data := closed(t, l, []byte("text"))
	for phrase, want := range map[string]error{"open sesame": nil, "open barley": seal.ErrWrongKey} {
		k, err := seal.Passphrase(sealed.NewSecret([]byte(phrase)))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := opened(k, data); !errors.Is(err, want) || want == nil && string(got) != "text" {
			t.Errorf("%q: %q, %v", phrase, got, err)
		}
	}
	if got := seal.Look(bufio.NewReader(bytes.NewReader(data))); got != seal.NeedsPassphrase {
		t.Errorf("it looks as if it needed %v", got)
	}
	_, secret := pair(t)
	if _, err := opened(identities(t, secret), data); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("an identity: %v", err)
	}
}

// Every region of the file is spoilt: the head by bytes, each 64 KiB chunk at its
// ends and in its middle; and it is cut within and between chunks.
func TestWhatWasChangedOrCutOffDoesNotOpen(t *testing.T) {
	t.Parallel()
	public, secret := pair(t)
	l, err := seal.ToKeys(public)
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 3*64<<10+100)
	_, _ = rand.Read(text)
	data := closed(t, l, text)
	k := identities(t, secret)
	payload := len(data) - len(text) - 4*16 // four chunks, each with its tag
	var places []int
	for i := range payload {
		places = append(places, i)
	}
	for chunk := payload; chunk < len(data); chunk += 64<<10 + 16 {
		end := min(chunk+64<<10+16, len(data))
		places = append(places, chunk, (chunk+end)/2, end-1)
	}
	for _, at := range places {
		bad := slices.Clone(data)
		bad[at] ^= 1
		if got, err := opened(k, bad); err == nil {
			t.Errorf("byte %d of %d changed, and %d bytes came out", at, len(data), len(got))
		}
		if got, err := opened(k, data[:at]); err == nil {
			t.Errorf("cut at %d of %d, and %d bytes came out", at, len(data), len(got))
		}
	}
	if got, err := opened(k, append(slices.Clone(data), 0)); err == nil {
		t.Errorf("one byte more, and %d bytes came out", len(got))
	}
}

func TestKeysThatAreNoneAreRefusedWithoutQuotingSecrets(t *testing.T) {
	t.Parallel()
	_, secret := pair(t)
	for _, text := range []string{"", "# nothing\n", "age1nonsense", secret, strings.Repeat("x", 5000)} {
		_, err := seal.ToKeys(text)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("recipient %.20q: %v", text, err)
		}
		if strings.Contains(fmt.Sprint(err), secret[20:]) {
			t.Errorf("the refusal holds the secret key")
		}
	}
	for _, text := range []string{"", "nonsense", secret[:40]} {
		_, err := seal.Identities([]byte(text))
		if !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "40") && len(text) == 40 {
			t.Errorf("identity %.20q: %v", text, err)
		}
		if len(text) == 40 && strings.Contains(err.Error(), text[20:]) {
			t.Error("the refusal holds the secret key")
		}
	}
	if _, err := seal.ToPassphrase(sealed.Secret{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an empty passphrase: %v", err)
	}
	if got := seal.Look(bufio.NewReader(strings.NewReader("hello"))); got != seal.NeedsNothing {
		t.Errorf("a text looks as if it needed %v", got)
	}
}

// TestAnApprovedPassphraseOpensAndNothingElseDoes: and what was changed is told from
// what was sealed to another.
func TestAnApprovedPassphraseOpensAndNothingElseDoes(t *testing.T) {
	t.Parallel()
	p := sealed.NewSecret([]byte("a passphrase of some length"))
	l, err := seal.ToApproved(p, 100)
	if err != nil {
		t.Fatal(err)
	}
	text := bytes.Repeat([]byte("the state of a swarm "), 10000)
	data := closed(t, l, text)
	if got := seal.Look(bufio.NewReader(bytes.NewReader(data))); got != seal.NeedsPassphrase {
		t.Errorf("it needs %v", got)
	}
	key := func(p sealed.Secret) seal.Key {
		k, err := seal.Passphrase(p)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if got, err := opened(key(p), data); err != nil || !bytes.Equal(got, text) {
		t.Errorf("the passphrase: %d bytes, %v", len(got), err)
	}
	if _, err := opened(key(sealed.NewSecret([]byte("another passphrase altogether"))), data); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("another passphrase: %v, want %v", err, seal.ErrWrongKey)
	}
	_, secret := pair(t)
	if _, err := opened(identities(t, secret), data); !errors.Is(err, seal.ErrWrongKey) {
		t.Errorf("an identity of age: %v, want %v", err, seal.ErrWrongKey)
	}
	for i := range len(data) {
		if i > 100 && i < len(data)-100 && i%997 != 0 {
			continue
		}
		bad := bytes.Clone(data)
		bad[i] ^= 1
		if i >= 9 && i < 12 { // the rounds: a file may not make its reader work for ever
			bad[9] = 0xff
		}
		if got, err := opened(key(p), bad); err == nil {
			t.Fatalf("with byte %d changed %d bytes open", i, len(got))
		}
		if got, err := opened(key(p), data[:i]); err == nil {
			t.Fatalf("cut off at %d, %d bytes open", i, len(got))
		}
	}
}

func TestAnApprovedPassphraseIsLong(t *testing.T) {
	t.Parallel()
	if _, err := seal.ToApprovedPassphrase(sealed.NewSecret([]byte("thirteen long"))); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "thirteen") {
		t.Errorf("%v, want that it is refused and not quoted", err)
	}
}
