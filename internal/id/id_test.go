package id

import (
	"bytes"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func draw(t *rapid.T, label string) ID {
	var x ID
	copy(x[:], rapid.SliceOfN(rapid.Byte(), Size, Size).Draw(t, label))
	return x
}

func TestAnIDSurvivesItsStringAndItsBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x := draw(t, "x")
		s := x.String()
		if len(s) != Digits || strings.Trim(s, alphabet) != "" {
			t.Fatalf("String() = %q, want %d base-36 digits", s, Digits)
		}
		back, err := Parse(s)
		if err != nil || back != x {
			t.Fatalf("Parse(%q) = %v, %v; want %v", s, back, err, x)
		}
		back, err = FromBytes(x.Bytes())
		if err != nil || back != x {
			t.Fatalf("FromBytes(Bytes()) = %v, %v; want %v", back, err, x)
		}
	})
}

func TestStringsSortAsBytes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a"), draw(t, "b")
		if got, want := strings.Compare(a.String(), b.String()), Compare(a, b); got != want {
			t.Fatalf("strings of %v and %v compare %d, bytes %d", a, b, got, want)
		}
	})
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	var top ID
	for i := range top {
		top[i] = 0xff
	}
	if got := top.String(); got != "f5lxx1zz5pnorynqglhzmsp33" {
		t.Errorf("greatest id = %q", got)
	}
	for _, s := range []string{
		"", "0", strings.Repeat("0", 26), strings.Repeat("z", 25),
		"f5lxx1zz5pnorynqglhzmsp34", "F5lxx1zz5pnorynqglhzmsp33", "0000000000000000000000 00",
	} {
		if x, err := Parse(s); err == nil {
			t.Errorf("Parse(%q) = %v, want an error", s, x)
		}
	}
}

func TestZeroIsAbsent(t *testing.T) {
	t.Parallel()
	var x ID
	if x.Bytes() != nil || !x.IsZero() {
		t.Errorf("zero id: Bytes %v IsZero %v", x.Bytes(), x.IsZero())
	}
	if got, err := FromBytes(nil); err != nil || !got.IsZero() {
		t.Errorf("FromBytes(nil) = %v, %v; want zero", got, err)
	}
	if _, err := FromBytes([]byte{1}); err == nil {
		t.Error("FromBytes of one byte: want an error")
	}
	text, err := x.MarshalText()
	if err != nil || !bytes.Equal(text, nil) {
		t.Errorf("MarshalText of zero = %q, %v", text, err)
	}
	y := New()
	if err := y.UnmarshalText(text); err != nil || !y.IsZero() {
		t.Errorf("UnmarshalText of nothing = %v, %v", y, err)
	}
}

func TestNewDrawsDifferentIDs(t *testing.T) {
	t.Parallel()
	a, b := New(), New()
	if a == b || a.IsZero() || len(a.Short()) != ShortDigits {
		t.Errorf("New drew %v and %v", a, b)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("f5lxx1zz5pnorynqglhzmsp33")
	f.Fuzz(func(t *testing.T, s string) {
		if x, err := Parse(s); err == nil && x.String() != s {
			t.Errorf("Parse(%q).String() = %q", s, x.String())
		}
	})
}
