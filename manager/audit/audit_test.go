package audit

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/internal/sealed"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

// root returns a certificate and its key.
func root(t testing.TB) ([]byte, sealed.Secret) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: noon, NotAfter: noon.AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return der, sealed.NewSecret(pkcs8)
}

// filled returns a trail of n records of somebody's work behind its beginning.
func filled(n int) *Trail {
	var tr Trail
	tr.Append(Record{Index: 1, At: noon, Who: Swarm, Did: Begin, Result: Done, Cluster: "c", HistoryID: "h"})
	for i := range n {
		tr.Append(Record{Index: uint64(i + 2), At: noon.Add(time.Duration(i) * time.Second), Who: "user:alice", Did: "CreateService",
			Objects: []Object{{Kind: "service", ID: fmt.Sprint(i), Name: "web"}}, Result: Done})
	}
	return &tr
}

// export writes an export of the trail, sealed by the key.
func export(t testing.TB, tr *Trail, der []byte, key sealed.Secret) []byte {
	t.Helper()
	var out bytes.Buffer
	e := NewExport(&out, Head{Cluster: "c", History: "h", Roots: [][]byte{der}})
	for _, line := range tr.After(0) {
		e.Line(line)
	}
	s := &Seal{Cluster: "c", History: "h", Seq: tr.Last(), Hash: tr.Head(), At: noon}
	if err := errors.Join(s.Sign(ForExport, [][]byte{der}, key), e.End(s)); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestARecordsLineIsItsJSONAndItsHashTheLines(t *testing.T) {
	t.Parallel()
	var tr Trail
	tr.Append(Record{Index: 7, At: noon, Who: "user:uid:0", User: "u", On: "n1", From: "10.0.0.9", Via: "n2", By: "n3", Did: "UpdateNode",
		Objects: []Object{{Kind: "node", ID: "x", Name: "dev\"01\\\x1b[2J\xff\u2028é"}}, More: 2, Request: "00ff", Result: Refused,
		Code: "denied", Reason: strings.Repeat("é", 300), Count: 3, First: noon.Add(-time.Minute)})
	for seq, line := range tr.After(0) {
		const want = `{"seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","index":7,"at":"2026-03-01T12:00:00.123456789Z",` +
			`"who":"user:uid:0","user":"u","on":"n1","from":"10.0.0.9","via":"n2","by":"n3","did":"UpdateNode",` +
			`"objects":[{"kind":"node","id":"x","name":"dev\"01\\\u001b[2J\ufffd\u2028é"}],"more":2,"request":"00ff","result":"refused","code":"denied","reason":"`
		if seq != 1 || !strings.HasPrefix(string(line), want) || len(line) > len(want)+400 {
			t.Errorf("record %d is\n%s\nwant\n%s…", seq, line, want)
		}
		r, err := Parse(line)
		if err != nil || r.Count != 3 || !r.First.Equal(noon.Add(-time.Minute)) || r.Objects[0].Name != "dev\"01\\\x1b[2J\ufffd\u2028é" || !json.Valid(line) {
			t.Errorf("it is read as %+v, %v", r, err)
		}
		if tr.Head() != sha256.Sum256(line) {
			t.Errorf("the head is %s", tr.Head())
		}
	}
}

// FuzzLine: whatever callers call themselves, a line is JSON that says the same.
func FuzzLine(f *testing.F) {
	f.Add("alice", "why\n", "a\u2029\x00")
	f.Fuzz(func(t *testing.T, who, reason, name string) {
		var tr Trail
		tr.Append(Record{Index: 1, At: noon, Who: who, Did: "X", Result: Refused, Reason: reason, Objects: []Object{{Kind: "k", ID: "i", Name: name}}})
		for _, line := range tr.After(0) {
			r, err := Parse(line)
			if err != nil || bytes.ContainsAny(line, "\n\r\x1b") || r.Who != strings.ToValidUTF8(Cut(who), "\ufffd") && !strings.Contains(r.Who, "\ufffd") {
				t.Errorf("%q is read as %q, %v", line, r.Who, err)
			}
		}
	})
}

func TestAnExportOfAWholeTrailIsWhole(t *testing.T) {
	t.Parallel()
	der, key := root(t)
	tr := filled(20)
	s := Seal{Cluster: "c", History: "h", Seq: tr.Last(), Hash: tr.Head(), At: noon}
	if err := s.Sign(ForTrail, [][]byte{der}, key); err != nil {
		t.Fatal(err)
	}
	tr.Append(Record{Index: 30, At: noon, Who: Swarm, Did: Checkpoint, Result: Done, Seal: &s})
	if err := tr.Check(); err != nil {
		t.Error(err)
	}
	for _, roots := range [][][]byte{nil, {der}} {
		r, err := Verify(bytes.NewReader(export(t, tr, der, key)), roots)
		if err != nil || r.First != 1 || r.Last != 22 || r.Checkpoints != 1 || r.Cluster != "c" {
			t.Errorf("with roots %v: %+v, %v", roots != nil, r, err)
		}
	}
	var none Trail
	if r, err := Verify(bytes.NewReader(export(t, &none, der, key)), nil); err != nil || r.Last != 0 {
		t.Errorf("an empty one: %+v, %v", r, err)
	}
	// A root that is no more: its checkpoints are covered by the seal.
	other, otherKey := root(t)
	if r, err := Verify(bytes.NewReader(export(t, tr, other, otherKey)), nil); err != nil || r.Former != 1 {
		t.Errorf("after a rotation: %+v, %v", r, err)
	}
}

func TestWhatIsDroppedIsToldAndTheRestIsWhole(t *testing.T) {
	t.Parallel()
	der, key := root(t)
	tr := filled(20)
	before := *tr
	tr.truncate(40, noon, 10, MaxBytes)
	if before.Len() != 21 || before.First() != 1 || before.Check() != nil {
		t.Errorf("a copy from before has %d records from %d on: %v", before.Len(), before.First(), before.Check())
	}
	if tr.Len() != 11 || tr.First() != 12 || tr.Last() != 22 {
		t.Errorf("%d records from %d to %d are left", tr.Len(), tr.First(), tr.Last())
	}
	r, err := Verify(bytes.NewReader(export(t, tr, der, key)), nil)
	if err != nil || r.Dropped != 11 {
		t.Errorf("it is %+v, %v", r, err)
	}
	tr.truncate(41, noon, 5, MaxBytes) // the record of the first one stays a while, and does not mislead
	if r, err := Verify(bytes.NewReader(export(t, tr, der, key)), nil); err != nil || r.Dropped != tr.First()-1 {
		t.Errorf("after another: %+v, %v", r, err)
	}
	tr.truncate(42, noon, 100, 1)
	if r, err := Verify(bytes.NewReader(export(t, tr, der, key)), nil); err != nil || r.First != r.Last-1 {
		t.Errorf("cut to the least: %+v, %v", r, err)
	}
}

func TestATrailIsBounded(t *testing.T) {
	t.Parallel()
	tr := filled(MaxRecords + 10)
	if tr.Len() > MaxRecords || tr.Len() < MaxRecords/10*9 || tr.Bytes() > MaxBytes || tr.First() == 1 {
		t.Errorf("it has %d records, %d bytes, from %d on", tr.Len(), tr.Bytes(), tr.First())
	}
	if err := tr.Check(); err != nil {
		t.Error(err)
	}
	big := Record{Who: strings.Repeat("x", 250), Did: "Y", Reason: strings.Repeat("y", 250), Result: Done}
	for range 16 {
		big.Objects = append(big.Objects, Object{Kind: "service", ID: strings.Repeat("i", 250), Name: strings.Repeat("n", 250)})
	}
	for range 4000 {
		tr.Append(big)
	}
	if tr.Bytes() > MaxBytes || tr.Check() != nil {
		t.Errorf("of big records it keeps %d bytes: %v", tr.Bytes(), tr.Check())
	}
}

func TestATrailIsTheSameAfterItsLinesWereLoaded(t *testing.T) {
	t.Parallel()
	tr := filled(20)
	tr.truncate(40, noon, 10, MaxBytes)
	var again Trail
	for _, line := range tr.After(0) {
		again.Load(line)
	}
	for _, x := range []*Trail{tr, &again} {
		x.Append(Record{Index: 50, At: noon, Who: "user:bob", Did: "RemoveService", Result: Done})
	}
	if again.Head() != tr.Head() || again.First() != tr.First() || again.Last() != tr.Last() || again.Bytes() != tr.Bytes() {
		t.Errorf("loaded it is %d to %d, %s; was %d to %d, %s", again.First(), again.Last(), again.Head(), tr.First(), tr.Last(), tr.Head())
	}
	var got []uint64
	for seq := range again.After(21) {
		got = append(got, seq)
	}
	if !slices.Equal(got, []uint64{22, 23}) {
		t.Errorf("behind 21 there are %v", got)
	}
	if n := again.Since(noon.Add(18 * time.Second)); n != 19 {
		t.Errorf("the last before the 19th second is %d", n)
	}
}

// TestTampering changes an export in every way there is, without the CA's key.
func TestTampering(t *testing.T) {
	t.Parallel()
	der, key := root(t)
	evil, evilKey := root(t)
	tr := filled(10)
	s := Seal{Cluster: "c", History: "h", Seq: tr.Last(), Hash: tr.Head(), At: noon}
	if err := s.Sign(ForTrail, [][]byte{der}, key); err != nil {
		t.Fatal(err)
	}
	tr.Append(Record{Index: 30, At: noon, Who: Swarm, Did: Checkpoint, Result: Done, Seal: &s})
	tr.Append(Record{Index: 31, At: noon, Who: "user:bob", Did: "CreateUser", Result: Done})
	whole := strings.Split(strings.TrimSuffix(string(export(t, tr, der, key)), "\n"), "\n") // head, 1 to 13, foot
	replace := func(n int, old, now string) func([]string) []string {
		return func(l []string) []string { l[n] = strings.Replace(l[n], old, now, 1); return l }
	}
	for name, tt := range map[string]struct {
		change func([]string) []string
		want   string
	}{
		"a word":                  {replace(5, "alice", "bobby"), "line 7: record 6 does not follow from record 5 as it is here: record 5 was changed, or record 6 was"},
		"the last record":         {replace(13, "bob", "eve"), "line 15: the seal is over another record 13: it was changed"},
		"a record is left out":    {func(l []string) []string { return slices.Delete(l, 5, 6) }, "line 6: record 5 is missing: record 6 follows record 4"},
		"three are left out":      {func(l []string) []string { return slices.Delete(l, 5, 8) }, "line 6: records 5 to 7 are missing"},
		"the first is left out":   {func(l []string) []string { return slices.Delete(l, 1, 2) }, "records 1 to 1 are missing, and no record says that they were dropped"},
		"two are swapped":         {func(l []string) []string { l[5], l[6] = l[6], l[5]; return l }, "line 6: record 5 is missing"},
		"one is repeated":         {func(l []string) []string { return slices.Insert(l, 6, l[5]) }, "line 7: record 5 comes behind record 5"},
		"one is inserted":         {func(l []string) []string { return slices.Insert(l, 6, strings.Replace(l[6], "alice", "eve", 1)) }, "line 8: record 6 comes behind record 6"},
		"the end is cut":          {func(l []string) []string { return slices.Delete(l, 12, 14) }, "line 13: the seal is over record 13, and the export ends with record 11: its end is missing"},
		"and the seal":            {func(l []string) []string { return l[:14] }, "line 15: the export ends without its seal"},
		"half a line":             {func(l []string) []string { l[13] = l[13][:50]; return l[:14] }, "line 14: no record can be read there"},
		"one is added":            {func(l []string) []string { return slices.Insert(l, 14, added(l[13])) }, "line 16: the seal is over record 13, and the export ends with record 14: what is behind record 13 was added"},
		"something behind":        {func(l []string) []string { return append(l, l[1]) }, "line 16: there is more behind the seal"},
		"a time in the seal":      {replace(14, "T12:00", "T13:00"), "line 15: the CA did not sign this seal"},
		"the cluster of all":      {func(l []string) []string { return replace(14, `"c"`, `"d"`)(replace(0, `"c"`, `"d"`)(l)) }, "line 15: the CA did not sign this seal"},
		"the cluster":             {replace(0, `"c"`, `"d"`), "line 15: the seal is of cluster c, history h; the first line says cluster d"},
		"the head":                {func(l []string) []string { return l[1:] }, "line 1: this is no export"},
		"a checkpoint as the end": {func(l []string) []string { return append(l[:12], asFoot(t, s)) }, "line 13: the CA did not sign this seal"},
		"a checkpoint's hash":     {rewrite(t, der, key, func(r *Record) { r.Seal.Hash[0] ^= 1 }), "line 13: record 12 is a checkpoint over a record 11 that is not the one here"},
		"a checkpoint's time":     {rewrite(t, der, key, func(r *Record) { r.Seal.At = noon.Add(1) }), "line 13: record 12 is a checkpoint that the CA did not sign"},
		"another's seal":          {func(l []string) []string { return strings.Split(string(export(t, tr, evil, evilKey)), "\n")[:15] }, "which is none of those given"},
	} {
		text := strings.Join(tt.change(slices.Clone(whole)), "\n") + "\n"
		_, err := Verify(strings.NewReader(text), [][]byte{der})
		var b *Broken
		if !errors.As(err, &b) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v\nwant %s", name, err, tt.want)
		}
	}
	if _, err := Verify(strings.NewReader(strings.Join(whole, "\n")), [][]byte{der}); err != nil {
		t.Errorf("the whole one: %v", err)
	}
}

// added is a record that follows from a line.
func added(line string) string {
	r, _ := Parse([]byte(line))
	r.Seq, r.Prev = r.Seq+1, HashOf([]byte(line))
	return string(r.line())
}

func asFoot(t *testing.T, s Seal) string {
	t.Helper()
	b, err := json.Marshal(Foot{Export: &s})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rewrite changes the checkpoint and makes all behind it follow, and the seal too:
// what a manager that lies could do, but for the checkpoint's own signature.
func rewrite(t *testing.T, der []byte, key sealed.Secret, change func(*Record)) func([]string) []string {
	t.Helper()
	return func(l []string) []string {
		var tr Trail
		for _, line := range l[1 : len(l)-1] {
			r, err := Parse([]byte(line))
			if err != nil {
				t.Fatal(err)
			}
			if r.Seal != nil {
				change(&r)
			}
			tr.Append(r)
		}
		return strings.Split(strings.TrimSuffix(string(export(t, &tr, der, key)), "\n"), "\n")
	}
}

// FuzzVerify: no file makes the verification fail otherwise than by an error.
func FuzzVerify(f *testing.F) {
	der, key := root(f)
	whole := export(f, filled(3), der, key)
	f.Add(whole)
	f.Add([]byte(`{"skep_audit":1}` + "\n" + `{"export_seal":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if r, err := Verify(bytes.NewReader(data), [][]byte{der}); err == nil && r.Last != 4 {
			t.Errorf("another export passed: %+v", r)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	var tr Trail
	r := Record{Index: 7, At: noon, Who: "user:alice", User: strings.Repeat("u", 25), From: "10.0.0.9", Did: "CreateService",
		Objects: []Object{{Kind: "service", ID: strings.Repeat("s", 25), Name: "web"}}, Request: strings.Repeat("0", 32), Result: Done}
	b.ReportAllocs()
	for b.Loop() {
		tr.Append(r)
	}
	b.ReportMetric(float64(tr.Bytes())/float64(tr.Len()), "B/record")
}

func TestACheckpointIsWantedAfterAnHourOrAThousandRecords(t *testing.T) {
	t.Parallel()
	var none Trail
	if none.WantsCheckpoint(noon.AddDate(1, 0, 0)) {
		t.Error("an empty trail wants one")
	}
	tr := filled(10)
	if tr.WantsCheckpoint(noon.Add(time.Minute)) || !tr.WantsCheckpoint(noon.Add(time.Hour)) {
		t.Error("the first of ten is not wanted after an hour")
	}
	tr.Append(Record{Index: 20, At: noon.Add(time.Hour), Who: Swarm, Did: Checkpoint, Result: Done, Seal: &Seal{Seq: 11}})
	if tr.WantsCheckpoint(noon.AddDate(1, 0, 0)) {
		t.Error("one is wanted though nothing came behind the last")
	}
	if !filled(1000).WantsCheckpoint(noon) {
		t.Error("none is wanted of a thousand")
	}
}
