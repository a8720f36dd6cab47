package audit

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// maxLine bounds a line of an export: a record's is far shorter, and so is the
// first one's with a few certificates.
const maxLine = 1 << 20

// Broken says where an export is not what managers wrote.
type Broken struct {
	// Line of the file, from 1; 0 if it is about none.
	Line int
	What string
}

// Error names the line.
func (b *Broken) Error() string {
	if b.Line == 0 {
		return b.What
	}
	return fmt.Sprintf("line %d: %s", b.Line, b.What)
}

// A Report is what a whole export says.
type Report struct {
	Cluster, History string
	// First and Last are the numbers of its records, 0 if it has none; Dropped how
	// many before them the swarm itself has dropped.
	First, Last, Dropped uint64
	// Checkpoints is how many within the trail were checked, and Former how many
	// were signed under certificates the export does not hold: the last seal covers
	// what they did.
	Checkpoints, Former int
	// Seal is the last line's.
	Seal Seal
}

// Verify reads an export and returns what it is, or a *Broken that names the first
// thing wrong with it. roots are the certificates (DER) the seal may be signed
// under; without any, those are trusted that the export itself brings, which prove
// only that it is of one piece.
func Verify(r io.Reader, roots [][]byte) (Report, error) {
	v := &verifier{scan: bufio.NewScanner(r), given: roots}
	v.scan.Buffer(make([]byte, 64<<10), maxLine)
	if err := v.head(); err != nil {
		return Report{}, err
	}
	for {
		line, ok := v.read()
		if !ok {
			return Report{}, v.broken("the export ends without its seal: what is missing at its end cannot be said; export it again")
		}
		if bytes.HasPrefix(line, []byte(`{"export_seal":`)) {
			return v.report, v.foot(line)
		}
		if err := v.record(line); err != nil {
			return Report{}, err
		}
	}
}

type verifier struct {
	scan   *bufio.Scanner
	at     int
	given  [][]byte
	roots  map[Hash]*x509.Certificate
	chain  chain
	report Report
}

func (v *verifier) read() ([]byte, bool) {
	v.at++
	ok := v.scan.Scan()
	return v.scan.Bytes(), ok
}

func (v *verifier) broken(format string, args ...any) error {
	if err := v.scan.Err(); err != nil {
		return &Broken{Line: v.at, What: err.Error()}
	}
	return &Broken{Line: v.at, What: fmt.Sprintf(format, args...)}
}

func (v *verifier) head() error {
	var h Head
	ok := false
	if v.at++; v.scan.Scan() {
		ok = json.Unmarshal(v.scan.Bytes(), &h) == nil && h.Format != 0
	}
	switch {
	case !ok:
		return v.broken(`this is no export of an audit trail: it does not begin with {"skep_audit":…}`)
	case h.Format != Format:
		return v.broken("format %d is not known to this version, which reads %d", h.Format, Format)
	}
	v.report.Cluster, v.report.History = h.Cluster, h.History
	v.roots = make(map[Hash]*x509.Certificate)
	trusted := h.Roots
	if len(v.given) > 0 {
		trusted = v.given
	}
	for _, der := range trusted {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return v.broken("a root certificate is not readable: %v", err)
		}
		v.roots[HashOf(der)] = cert
	}
	return nil
}

// record takes one line of the trail in.
func (v *verifier) record(line []byte) error {
	if err := v.chain.next(line); err != nil {
		return v.broken("%v", err)
	}
	r := v.chain.last
	if r.Did != Checkpoint || r.Seal == nil {
		return nil
	}
	if h, known := v.chain.hashOf(r.Seal.Seq); known && h != r.Seal.Hash {
		return v.broken("record %d is a checkpoint over a record %d that is not the one here", r.Seq, r.Seal.Seq)
	}
	root := v.roots[r.Seal.Root]
	if root == nil {
		v.report.Former++
		return nil
	}
	if r.Seal.check(ForTrail, root) != nil {
		return v.broken("record %d is a checkpoint that the CA did not sign", r.Seq)
	}
	v.report.Checkpoints++
	return nil
}

// foot judges the seal, and that nothing comes behind it.
func (v *verifier) foot(line []byte) error {
	var f Foot
	if err := json.Unmarshal(line, &f); err != nil || f.Export == nil {
		return v.broken("the seal is not readable")
	}
	s := f.Export
	if err := v.chain.explained(); err != nil {
		return &Broken{What: err.Error()}
	}
	last, head := v.chain.end()
	switch {
	case s.Cluster != v.report.Cluster || s.History != v.report.History:
		return v.broken("the seal is of cluster %s, history %s; the first line says cluster %s, history %s",
			s.Cluster, s.History, v.report.Cluster, v.report.History)
	case s.Seq > last:
		return v.broken("the seal is over record %d, and the export ends with record %d: its end is missing", s.Seq, last)
	case s.Seq < last:
		return v.broken("the seal is over record %d, and the export ends with record %d: what is behind record %d was added", s.Seq, last, s.Seq)
	case s.Hash != head:
		return v.broken("the seal is over another record %d: it was changed", last)
	}
	root := v.roots[s.Root]
	switch {
	case len(s.Signature) == 0:
		return v.broken("nobody signed the seal: the records follow from each other, and anyone could have made them")
	case root == nil && len(v.given) > 0:
		return v.broken("the seal is signed under the root with SHA-256 %s, which is none of those given", s.Root)
	case root == nil:
		return v.broken("the seal is signed under the root with SHA-256 %s, which the export does not hold", s.Root)
	case s.check(ForExport, root) != nil:
		return v.broken("the CA did not sign this seal")
	}
	if _, more := v.read(); more {
		return v.broken("there is more behind the seal")
	}
	v.report.Seal, v.report.First, v.report.Last, v.report.Dropped = *s, v.chain.first, last, max(1, v.chain.first)-1
	return nil
}

// A chain follows the lines of a trail.
type chain struct {
	first  uint64
	hashes []Hash // of the lines from first on
	last   Record
	// prev is what the first record names as the one before it.
	prev Hash
	// dropped is the newest record that says what was dropped.
	dropped *Record
}

// next takes a line in, or says how it does not follow.
func (c *chain) next(line []byte) error {
	r, err := Parse(line)
	if err != nil {
		return fmt.Errorf("no record can be read there: %w", errors.Unwrap(err))
	}
	want, head := c.end()
	want++
	switch {
	case len(c.hashes) == 0:
		c.first, c.prev = r.Seq, r.Prev
	case r.Seq == want+1:
		return fmt.Errorf("record %d is missing: record %d follows record %d", want, r.Seq, want-1)
	case r.Seq > want:
		return fmt.Errorf("records %d to %d are missing: record %d follows record %d", want, r.Seq-1, r.Seq, want-1)
	case r.Seq < want:
		return fmt.Errorf("record %d comes behind record %d: it is repeated, inserted or out of its place", r.Seq, want-1)
	case r.Prev != head:
		return fmt.Errorf("record %d does not follow from record %d as it is here: record %d was changed, or record %d was", r.Seq, want-1, want-1, r.Seq)
	}
	c.hashes, c.last = append(c.hashes, HashOf(line)), r
	if r.Did == Truncate {
		c.dropped = &r
	}
	return nil
}

// end returns number and hash of the last record; zero if there is none.
func (c *chain) end() (uint64, Hash) {
	if len(c.hashes) == 0 {
		return 0, Hash{}
	}
	return c.first + uint64(len(c.hashes)) - 1, c.hashes[len(c.hashes)-1]
}

// hashOf returns the hash of a record that was taken in, or named by the first.
func (c *chain) hashOf(seq uint64) (Hash, bool) {
	switch {
	case len(c.hashes) == 0 || seq+1 < c.first || seq >= c.first+uint64(len(c.hashes)):
		return Hash{}, false
	case seq+1 == c.first:
		return c.prev, true
	}
	return c.hashes[seq-c.first], true
}

// explained returns nil if the chain begins where a trail begins: with the first
// record of all, or behind those of which it says itself that they were dropped.
func (c *chain) explained() error {
	switch d := c.dropped; {
	case len(c.hashes) == 0:
		return nil
	case c.first == 1 && c.prev == (Hash{}) && d == nil:
		return nil
	case d == nil:
		return fmt.Errorf("records 1 to %d are missing, and no record says that they were dropped", c.first-1)
	case d.DroppedTo+1 != c.first:
		return fmt.Errorf("the first record is %d, and record %d says that those up to %d were dropped", c.first, d.Seq, d.DroppedTo)
	case d.DroppedHash != c.prev:
		return fmt.Errorf("record %d does not follow from the record %d that was dropped, as record %d has it", c.first, d.DroppedTo, d.Seq)
	}
	return nil
}
