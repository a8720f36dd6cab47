package audit

import (
	"fmt"
	"iter"
	"sort"
	"time"
)

// What a trail holds at most. Beyond it the oldest tenth is dropped, and a record
// says so. Every replica must have the same bounds.
const (
	MaxRecords = 50_000
	MaxBytes   = 16 << 20
)

// A Trail is the records of a state. The zero Trail is empty. A copy of one is
// never changed by what is appended to another; but only the newest is appended to,
// for copies share what they have in common.
type Trail struct {
	lines [][]byte
	first uint64 // number of lines[0]
	head  Hash   // of the last line
	bytes int    // in lines
}

// Len returns how many records there are.
func (t *Trail) Len() int { return len(t.lines) }

// Bytes returns how many bytes they take.
func (t *Trail) Bytes() int { return t.bytes }

// First returns the number of the oldest record, 0 of an empty trail.
func (t *Trail) First() uint64 { return t.first }

// Last returns the number of the newest record, 0 of an empty trail.
func (t *Trail) Last() uint64 {
	if len(t.lines) == 0 {
		return 0
	}
	return t.first + uint64(len(t.lines)) - 1
}

// Head returns the hash of the newest record.
func (t *Trail) Head() Hash { return t.head }

// After walks the lines of the records behind number seq, with their numbers. They
// are shared: stone.
func (t *Trail) After(seq uint64) iter.Seq2[uint64, []byte] {
	return func(yield func(uint64, []byte) bool) {
		from := 0
		if seq >= t.first {
			from = int(min(seq-t.first+1, uint64(len(t.lines))))
		}
		for i, line := range t.lines[from:] {
			if !yield(t.first+uint64(from+i), line) {
				return
			}
		}
	}
}

// Since returns the number of the last record before the time at; 0 if there is
// none.
func (t *Trail) Since(at time.Time) uint64 {
	n := sort.Search(len(t.lines), func(i int) bool {
		r, err := Parse(t.lines[i])
		return err != nil || !r.At.Before(at)
	})
	if n == 0 {
		return 0
	}
	return t.first + uint64(n) - 1
}

// Append adds r, whose number and hash it gives, and drops what is too much.
func (t *Trail) Append(r Record) {
	t.add(r)
	if len(t.lines) > MaxRecords || t.bytes > MaxBytes {
		t.truncate(r.Index, r.At, MaxRecords/10*9, MaxBytes/10*9)
	}
}

func (t *Trail) add(r Record) {
	r.Seq, r.Prev = t.Last()+1, t.head
	t.Load(r.line())
}

// truncate drops the oldest until no more than records and bytes are left, and
// says so.
func (t *Trail) truncate(index uint64, at time.Time, records, bytes int) {
	n, left := 0, t.bytes
	for n < len(t.lines)-1 && (len(t.lines)-n > records || left > bytes) {
		left -= len(t.lines[n])
		n++
	}
	if n == 0 {
		return
	}
	from, last := t.first, HashOf(t.lines[n-1])
	t.lines, t.first, t.bytes = t.lines[n:], t.first+uint64(n), left
	t.add(Record{Index: index, At: at, Who: Swarm, Did: Truncate, Result: Done,
		Count: uint64(n), DroppedFrom: from, DroppedTo: from + uint64(n) - 1, DroppedHash: last})
}

// Load adds a line that was a trail's before, as it is. The first one says which
// number the trail begins with.
func (t *Trail) Load(line []byte) {
	if len(t.lines) == 0 {
		t.first = 1
		if r, err := Parse(line); err == nil {
			t.first = r.Seq
		}
	}
	t.lines = append(t.lines, line)
	t.head = HashOf(line)
	t.bytes += len(line)
}

// Check returns an error that names the first record that does not follow from
// the one before it.
func (t *Trail) Check() error {
	var c chain
	for _, line := range t.lines {
		if err := c.next(line); err != nil {
			return fmt.Errorf("audit trail: %w", err)
		}
	}
	return c.explained()
}

// A checkpoint is wanted behind as many records, or as long after one that none is
// over yet.
const (
	checkpointRecords = 1000
	checkpointAfter   = time.Hour
)

// WantsCheckpoint reports whether it is time, at now, for the CA to sign the trail.
func (t *Trail) WantsCheckpoint(now time.Time) bool {
	var oldest *Record // that no checkpoint is over
	for i := len(t.lines) - 1; i >= 0; i-- {
		if len(t.lines)-i > checkpointRecords {
			return true
		}
		r, err := Parse(t.lines[i])
		if err != nil || r.Did == Checkpoint {
			break
		}
		oldest = &r
	}
	return oldest != nil && now.Sub(oldest.At) >= checkpointAfter
}
