package sealed

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/skep-project/skep/internal/id"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := NewSecret([]byte("hunter2"))
	wrapped := struct{ S Secret }{s}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "w", wrapped)
	js, err := json.Marshal(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	all := fmt.Sprintf("%v %+v %#v %s %q %x %d %v %#v", s, s, s, s, s, s, s, wrapped, wrapped) + log.String() + string(js)
	if strings.Contains(all, "hunter2") || strings.Contains(all, "68756e") || strings.Contains(all, "104 117") {
		t.Errorf("the secret came out: %s", all)
	}
	if !s.Equal(NewSecret([]byte("hunter2"))) || s.Equal(NewSecret([]byte("hunter3"))) {
		t.Error("Equal does not compare bytes")
	}
}

func TestRingSurvivesItsProto(t *testing.T) {
	t.Parallel()
	ring := NewRing()
	if err := ring.Add(2, NewSecret(bytes.Repeat([]byte{7}, KeyBytes))); err != nil {
		t.Fatal(err)
	}
	if err := ring.Activate(2); err != nil {
		t.Fatal(err)
	}
	again, err := RingFromProto(ring.Proto())
	if err != nil {
		t.Fatal(err)
	}
	if !proto.Equal(ring.Proto(), again.Proto()) {
		t.Error("the ring changed on its way")
	}
	if err := ring.Add(2, NewSecret(bytes.Repeat([]byte{8}, KeyBytes))); err == nil {
		t.Error("a key number took a second key")
	}
	if err := ring.Activate(9); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("activate an absent key: %v, want ErrUnknownKey", err)
	}
	for _, bad := range []*logv1.Ring{
		{},
		{Active: 1, Keys: []*logv1.RingKey{{Id: 1, Key: []byte("short")}}},
		{Active: 2, Keys: ring.Proto().GetKeys()[:1]},
	} {
		if _, err := RingFromProto(bad); err == nil {
			t.Errorf("ring %d keys, active %d: taken", len(bad.GetKeys()), bad.GetActive())
		}
	}
}

func TestEntryOpensOnlyInItsPlace(t *testing.T) {
	t.Parallel()
	ring, cluster, history := NewRing(), id.New(), id.New()
	sealer, err := NewTermSealer(ring, cluster, history, 7, 99, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	data, err := sealer.Seal(&logv1.Entry{Sequence: 3, Clock: 5, Transactions: [][]byte{[]byte("a"), []byte("b")}})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("skep")) {
		t.Error("plaintext in the box")
	}
	e, err := Open(ring, cluster, history, data)
	if err != nil {
		t.Fatal(err)
	}
	if e.GetTerm() != 7 || e.GetProposer() != 99 || e.GetSequence() != 3 || len(e.GetTransactions()) != 2 {
		t.Errorf("opened %v", e)
	}

	spliced := func(change func(*logv1.Sealed)) []byte {
		var box logv1.Sealed
		if err := proto.Unmarshal(data, &box); err != nil {
			t.Fatal(err)
		}
		change(&box)
		out, err := proto.Marshal(&box)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for name, tt := range map[string]struct {
		ring             *Ring
		cluster, history id.ID
		data             []byte
		want             error
	}{
		"another cluster":  {ring, id.New(), history, data, ErrTampered},
		"another history":  {ring, cluster, id.New(), data, ErrTampered},
		"another ring":     {NewRing(), cluster, history, data, ErrTampered},
		"another term":     {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Term++ }), ErrTampered},
		"another proposer": {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Proposer++ }), ErrTampered},
		"another salt":     {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Salt[0]++ }), ErrTampered},
		"a short salt":     {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Salt = nil }), ErrTampered},
		"a changed byte":   {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Box[20]++ }), ErrTampered},
		"a cut box":        {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Box = b.GetBox()[:20] }), ErrTampered},
		"an unknown key":   {ring, cluster, history, spliced(func(b *logv1.Sealed) { b.KeyId = 5 }), ErrUnknownKey},
		"noise":            {ring, cluster, history, []byte{0xff, 0xff}, ErrTampered},
	} {
		if _, err := Open(tt.ring, tt.cluster, tt.history, tt.data); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, err := Open(ring, cluster, history, spliced(func(b *logv1.Sealed) { b.Format = 2 })); err == nil || !strings.Contains(err.Error(), "format 2") {
		t.Errorf("a format of the future: %v", err)
	}
}

func sealFile(t testing.TB, ring *Ring, place Place, plain []byte) []byte {
	t.Helper()
	var file bytes.Buffer
	w, err := NewWriter(&file, ring, place, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for len(plain) > 0 { // odd pieces, so that chunks are cut inside writes
		n := min(len(plain), 30011)
		if _, err := w.Write(plain[:n]); err != nil {
			t.Fatal(err)
		}
		plain = plain[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return file.Bytes()
}

func readFile(ring *Ring, place Place, file []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(file), ring, place)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestFileComesBackWhole(t *testing.T) {
	t.Parallel()
	ring, place := NewRing(), Place{Cluster: id.New(), History: id.New(), Purpose: "snapshot"}
	for _, size := range []int{0, 1, ChunkBytes - 1, ChunkBytes, ChunkBytes + 1, 3*ChunkBytes + 17, 4 * ChunkBytes} {
		plain := make([]byte, size)
		_, _ = rand.Read(plain)
		got, err := readFile(ring, place, sealFile(t, ring, place, plain))
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("%d bytes: came back as %d, %v", size, len(got), err)
		}
	}
}

func TestFileRefusesEverySplice(t *testing.T) {
	t.Parallel()
	ring, place := NewRing(), Place{Cluster: id.New(), History: id.New(), Purpose: "snapshot"}
	file := sealFile(t, ring, place, bytes.Repeat([]byte("0123456789abcdef"), 3*ChunkBytes/16))
	chunk := ChunkBytes + overhead
	at := func(n int) int { return HeaderBytes + n*chunk }
	other := place
	other.History = id.New()
	for name, bad := range map[string][]byte{
		"a cut inside a chunk":    file[:at(1)+100],
		"a cut between chunks":    file[:at(2)],
		"the head alone":          file[:HeaderBytes],
		"a cut head":              file[:HeaderBytes-1],
		"nothing":                 nil,
		"a byte more":             append(bytes.Clone(file), 0),
		"two chunks swapped":      append(append(append(bytes.Clone(file[:at(0)]), file[at(1):at(2)]...), file[at(0):at(1)]...), file[at(2):]...),
		"a chunk twice":           append(append(bytes.Clone(file[:at(1)]), file[at(0):at(1)]...), file[at(1):]...),
		"a chunk missing":         append(bytes.Clone(file[:at(1)]), file[at(2):]...),
		"a chunk of another file": append(append(bytes.Clone(file[:at(1)]), sealFile(t, ring, place, make([]byte, 3*ChunkBytes))[at(1):at(2)]...), file[at(2):]...),
	} {
		if _, err := readFile(ring, place, bad); !errors.Is(err, ErrTampered) {
			t.Errorf("%s: %v, want ErrTampered", name, err)
		}
	}
	if _, err := readFile(ring, other, file); !errors.Is(err, ErrTampered) {
		t.Errorf("in another history: %v, want ErrTampered", err)
	}
	for i := 0; i < len(file); i += 4099 {
		bad := bytes.Clone(file)
		bad[i] ^= 1
		if _, err := readFile(ring, place, bad); err == nil {
			t.Errorf("byte %d changed: not seen", i)
		}
	}
}

func TestWrapOpensOnlyUnderItsKeyAndWords(t *testing.T) {
	t.Parallel()
	kek := NewSecret(bytes.Repeat([]byte{1}, 32))
	blob, err := Wrap(kek, []byte("ring"), []byte("place"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := Unwrap(kek, blob, []byte("place")); err != nil || string(plain) != "ring" {
		t.Errorf("unwrap = %q, %v", plain, err)
	}
	for name, try := range map[string]func() ([]byte, error){
		"another key":   func() ([]byte, error) { return Unwrap(NewSecret(bytes.Repeat([]byte{2}, 32)), blob, []byte("place")) },
		"another place": func() ([]byte, error) { return Unwrap(kek, blob, []byte("elsewhere")) },
		"cut":           func() ([]byte, error) { return Unwrap(kek, blob[:20], []byte("place")) },
		"empty":         func() ([]byte, error) { return Unwrap(kek, nil, nil) },
	} {
		if _, err := try(); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: %v, want ErrWrongKey", name, err)
		}
	}
	if _, err := Wrap(NewSecret([]byte("short")), nil, nil); err == nil {
		t.Error("a key of 5 bytes was taken")
	}
}

func FuzzOpenNeverPanics(f *testing.F) {
	ring, cluster := NewRing(), id.New()
	f.Add([]byte{8, 1})
	f.Add([]byte("skepbox\x01aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := Open(ring, cluster, cluster, data); err == nil {
			t.Error("noise opened")
		}
		if _, err := readFile(ring, Place{}, data); err == nil {
			t.Error("a noise file opened")
		}
		if _, err := Unwrap(NewSecret(make([]byte, 32)), data, nil); err == nil {
			t.Error("a noise blob opened")
		}
	})
}
