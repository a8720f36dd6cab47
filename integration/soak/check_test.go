package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

func TestMain(m *testing.M) {
	lab.Init()
	m.Run()
}

func write(client int, value string, call, ret int64) op {
	return op{Client: client, Key: "m1/x", Write: true, Value: value, Call: call, Return: ret}
}

func read(client int, value string, call, ret int64) op {
	return op{Client: client, Key: "m1/x", Value: value, Call: call, Return: ret}
}

func unknown(o op) op {
	o.Unknown = true
	return o
}

func TestRegistersAreHeldToOneOrder(t *testing.T) {
	t.Parallel()
	other := read(1, "", 0, 1)
	other.Key = "m1/y"
	for name, tt := range map[string]struct {
		ops []op
		ok  bool
	}{
		"a read finds the last write":           {[]op{write(0, "1", 0, 1), read(1, "1", 2, 3)}, true},
		"keys are registers of their own":       {[]op{write(0, "1", 0, 1), read(1, "1", 2, 3), other}, true},
		"an acknowledged write is lost":         {[]op{write(0, "1", 0, 1), read(1, "", 2, 3)}, false},
		"an older value comes back":             {[]op{write(0, "1", 0, 1), write(0, "2", 2, 3), read(1, "2", 4, 5), read(1, "1", 6, 7)}, false},
		"a write is done twice":                 {[]op{write(0, "1", 0, 1), write(1, "2", 2, 3), read(0, "1", 4, 5)}, false},
		"concurrent, either order":              {[]op{write(0, "1", 0, 9), write(1, "2", 0, 9), read(2, "1", 10, 11)}, true},
		"an unknown write may come late":        {[]op{unknown(write(0, "1", 0, 1)), read(1, "", 2, 3), read(1, "1", 4, 5)}, true},
		"an unknown write may never come":       {[]op{unknown(write(0, "1", 0, 1)), read(1, "", 2, 3)}, true},
		"an unknown write does not come twice":  {[]op{unknown(write(0, "1", 0, 1)), read(1, "1", 2, 3), write(1, "2", 4, 5), read(1, "1", 6, 7)}, false},
		"what nobody wrote is read":             {[]op{read(1, "7", 2, 3)}, false},
		"an unknown write is not before itself": {[]op{read(1, "1", 0, 1), unknown(write(0, "1", 2, 3))}, false},
	} {
		page := filepath.Join(t.TempDir(), "page.html")
		if err := checkRegisters(history{ops: tt.ops}, page); (err == nil) != tt.ok {
			t.Errorf("%s: %v, want fine %v", name, err, tt.ok)
		}
	}
}

func TestSlotsAreHeldToOneContainer(t *testing.T) {
	t.Parallel()
	const s = int64(time.Second)
	a := ran{Slot: "web.1", Task: "a", Host: "w1", From: 0, To: 50 * s}
	b := ran{Slot: "web.1", Task: "b", Host: "w2", From: 20 * s, To: 100 * s}
	long := touch{Host: "w1", From: 5 * s, To: 30 * s}
	for name, tt := range map[string]struct {
		rans    []ran
		touches []touch
		want    string
	}{
		"two on hosts that felt nothing":         {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 100 * s}, b}, nil, "both live from 20s to 1m40s"},
		"one cut off, and its end":               {[]ran{a, b}, []touch{long}, ""},
		"the fault was another host's":           {[]ran{a, b}, []touch{{Host: "w3", From: 5 * s, To: 60 * s}}, "both live"},
		"they live on too long after it":         {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 100 * s}, b}, []touch{long}, "both live"},
		"the fault came after the second began":  {[]ran{a, b}, []touch{{Host: "w1", From: 25 * s, To: 60 * s}}, "both live"},
		"two faults, one after the other":        {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 100 * s}, b}, []touch{long, {Host: "w1", From: 45 * s, To: 90 * s}}, ""},
		"the second was another host's":          {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 100 * s}, b}, []touch{long, {Host: "w2", From: 55 * s, To: 90 * s}}, "both live"},
		"it was to be heard through the fault":   {[]ran{a, b}, []touch{{Host: "w1", Heard: true, From: 5 * s, To: 30 * s}}, "both live"},
		"the second began before the lease ends": {[]ran{a, b}, []touch{{Host: "w1", From: 15 * s, To: 30 * s}}, "both live"},
		"it ends where it was to be heard":       {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 10 * s, Gone: 11 * s}}, []touch{{Host: "w1", Heard: true, From: 5 * s, To: 30 * s}}, "on w1 ended at 11s"},
		"different slots":                        {[]ran{{Slot: "web.2", Task: "a", Host: "w1", To: 100 * s}, b}, nil, ""},
		"one after the other, on a touched host": {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 10 * s, Gone: 11 * s}, b}, []touch{long}, ""},
		"one ends by itself":                     {[]ran{{Slot: a.Slot, Task: "a", Host: "w3", To: 10 * s, Gone: 11 * s}}, []touch{long}, "on w3 ended at 11s"},
		"it ends as the fault begins":            {[]ran{{Slot: a.Slot, Task: "a", Host: "w1", To: 4 * s, Gone: 6 * s}}, []touch{long}, ""},
	} {
		err := checkSlots(history{rans: tt.rans, touches: tt.touches, ended: 100 * s})
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestEachFaultComesOnceBeforeAnyComesAgain(t *testing.T) {
	t.Parallel()
	faults := allFaults()
	orders := map[string]bool{}
	for seed := range uint64(20) {
		d, rng := deck{faults: faults}, rand.New(rand.NewPCG(seed, 0))
		for range 3 {
			var order []string
			for range faults {
				order = append(order, d.draw(rng).name)
			}
			orders[strings.Join(order, ",")] = true
			if slices.Sort(order); len(slices.Compact(order)) != len(faults) {
				t.Errorf("seed %d: %d of %d faults came in as many draws", seed, len(slices.Compact(order)), len(faults))
			}
		}
	}
	if len(orders) != 60 {
		t.Errorf("60 decks came in %d orders", len(orders))
	}
}

// segment makes a segment of records of some sizes, each multiple of eight.
func segment(sizes ...int) []byte {
	var out []byte
	for _, n := range sizes {
		filled := 3 // what stands behind a record so that the next begins at a word
		out = binary.LittleEndian.AppendUint64(out, uint64(n-filled)|uint64(0x80|filled)<<56)
		out = append(out, bytes.Repeat([]byte{7}, n)...)
	}
	return out
}

func TestTheRecordsOfALogAreFound(t *testing.T) {
	t.Parallel()
	full := segment(16, 1024, 8)
	for name, tt := range map[string]struct {
		segment []byte
		want    []int64
	}{
		"zeros behind":         {append(bytes.Clone(full), make([]byte, 600)...), []int64{0, 24, 1056, 1072}},
		"nothing behind":       {full, []int64{0, 24, 1056, 1072}},
		"empty":                {nil, []int64{0}},
		"a record without end": {full[:900], nil},
	} {
		if got, err := records(tt.segment); !slices.Equal(got, tt.want) || (err != nil) != (tt.want == nil) {
			t.Errorf("%s: %v, %v; want %v", name, got, err, tt.want)
		}
	}
}

func TestATornRecordEndsAtASectorWithinIt(t *testing.T) {
	t.Parallel()
	for at := int64(0); at < 3*sectorBytes; at += 8 {
		half := halfWritten(at)
		if end := at + int64(len(half)); end%sectorBytes != 0 || len(half) < lengthBytes || len(half) > 3*sectorBytes {
			t.Errorf("at byte %d: %d bytes are written, to byte %d", at, len(half), end)
		}
	}
	for _, zeros := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "segment")
		if err := os.WriteFile(path, bytes.Repeat([]byte{7}, 3000), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := overwrite(path, 1000, []byte("half"), zeros); err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Repeat([]byte{7}, 1000), "half"...)
		if zeros {
			want = append(want, make([]byte, 3000-1004)...)
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("zeros %v: %d bytes, %v; want %d", zeros, len(got), err, len(want))
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add(segment(16, 1024, 8))
	f.Fuzz(func(t *testing.T, segment []byte) {
		at, err := records(segment)
		if err == nil && (!slices.IsSorted(at) || at[len(at)-1] > int64(len(segment))) {
			t.Errorf("records of %d bytes at %v", len(segment), at)
		}
	})
}

func TestAHistoryIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sub", "history.jsonl")
	r, err := record(path)
	if err != nil {
		t.Fatal(err)
	}
	o := unknown(write(3, "9", 1, 2))
	r.put(line{Op: &o})
	r.put(line{Ran: &ran{Slot: "web.1", Task: "t", Host: "m1", From: 1, To: 2, Gone: 3}})
	r.put(line{Touch: &touch{Host: "m1", Fault: "kill", From: 1, To: 2}})
	r.put(line{End: &end{At: 3}})
	want, err := r.close()
	if err != nil {
		t.Fatal(err)
	}
	got, err := loadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := json.Marshal([]any{want.ops, want.rans, want.touches, want.ended})
	b, _ := json.Marshal([]any{got.ops, got.rans, got.touches, got.ended})
	if !bytes.Equal(a, b) || len(got.ops) != 1 {
		t.Errorf("read %s, wrote %s", b, a)
	}
	if _, err := load(strings.NewReader(`{"op":{}}`)); err == nil {
		t.Error("a history that was cut off was taken for whole")
	}
}
