package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"
)

// A Hash is the SHA-256 of a record's line. Zero: there is no such record.
type Hash [sha256.Size]byte

// HashOf returns the hash of a line, given without its end.
func HashOf(line []byte) Hash { return sha256.Sum256(line) }

// String is the hash in hexadecimal digits, as lines have it.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText writes a hash as String does.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("hash %.80q: want %d hexadecimal digits", text, 2*len(h))
	}
	copy(h[:], b)
	return nil
}

// The results of a record.
const (
	// Done: it was done, and is part of the state.
	Done = "done"
	// Refused: it was asked for and not done.
	Refused = "refused"
)

// What a trail says by itself. What callers do is named as the methods of the API
// are, "CreateService".
const (
	// Begin is the first record there is.
	Begin = "Begin"
	// History says that the swarm was founded again, on the state before it.
	History = "NewHistory"
	// Truncate says which of the oldest records were dropped.
	Truncate = "Truncate"
	// Checkpoint holds a signature of the CA over the record it names.
	Checkpoint = "Checkpoint"
	// Overflow counts what was refused beyond what is told one by one.
	Overflow = "Overflow"
)

// Own reports whether a word is one that a trail says by itself, or is none: who
// asks for something may not say it.
func Own(did string) bool {
	return did == "" || did == Begin || did == History || did == Truncate || did == Checkpoint
}

// Swarm is who does what nobody asked for at that moment.
const Swarm = "swarm"

// A Record is one thing that was done or refused. Zero fields are left out of its
// line; a reader skips what it does not know.
type Record struct {
	// Seq counts from 1, without gaps. Prev is the hash of the record before it.
	Seq  uint64 `json:"seq"`
	Prev Hash   `json:"prev"`
	// Index is that of the log entry that holds it, and At its log time.
	Index uint64    `json:"index"`
	At    time.Time `json:"at"`
	// Who asked ("many" of an Overflow): "user:alice", "user:uid:0" at a node's own socket, "node:<id>",
	// "anyone" without a certificate, or "swarm".
	Who string `json:"who"`
	// User is the id of a user with a certificate: names may be given again.
	User string `json:"user,omitempty"`
	// On is the node whose socket was used; From the host the caller was seen at;
	// Via the manager that carried the call to the leader and vouches for all of
	// these; By the manager that saw it, where no log entry did it.
	On   string `json:"on,omitempty"`
	From string `json:"from,omitempty"`
	Via  string `json:"via,omitempty"`
	By   string `json:"by,omitempty"`
	// Did is the method, or one of the words above.
	Did string `json:"did"`
	// Objects it changed, More how many besides.
	Objects []Object `json:"objects,omitempty"`
	More    int      `json:"more,omitempty"`
	// Request is the id of the request in hexadecimal digits: a retry has the same.
	Request string `json:"request,omitempty"`
	// Result is Done or Refused; Code and Reason say why it was refused.
	Result string `json:"result"`
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Count is how many times since First, if more than once.
	Count uint64    `json:"count,omitempty"`
	First time.Time `json:"first,omitzero"`

	// Of Begin and History: whose chain it is.
	Cluster   string `json:"cluster,omitempty"`
	HistoryID string `json:"history,omitempty"`
	// Of Truncate: the records that were dropped, and the hash of the last of them.
	DroppedFrom uint64 `json:"dropped_from,omitempty"`
	DroppedTo   uint64 `json:"dropped_to,omitempty"`
	DroppedHash Hash   `json:"dropped_hash,omitzero"`
	// Of Checkpoint.
	Seal *Seal `json:"seal,omitempty"`
}

// An Object is what a record is about.
type Object struct {
	// Kind is "service", "node", "member", "user", "token" or "cluster".
	Kind string `json:"kind"`
	ID   string `json:"id"`
	// Name it had then. May be empty.
	Name string `json:"name,omitempty"`
	// Became is what was made of it, in words. May be empty.
	Became string `json:"became,omitempty"`
}

// How much of what callers wrote a record holds, in bytes, and of how many objects.
const (
	maxText    = 256
	maxObjects = 16
)

// line renders r. Every replica, of whatever version, must render a record alike:
// the order of the fields never changes, and new ones come behind those there are.
func (r *Record) line() []byte {
	w := writer{buf: make([]byte, 0, 400)}
	w.number("seq", r.Seq)
	w.raw("prev", r.Prev.String())
	w.number("index", r.Index)
	w.moment("at", r.At)
	w.text("who", r.Who)
	w.some("user", r.User)
	w.some("on", r.On)
	w.some("from", r.From)
	w.some("via", r.Via)
	w.some("by", r.By)
	w.text("did", r.Did)
	w.objects(r.Objects)
	w.count("more", uint64(max(0, r.More)+max(0, len(r.Objects)-maxObjects)))
	w.some("request", r.Request)
	w.text("result", r.Result)
	w.some("code", r.Code)
	w.some("reason", r.Reason)
	w.count("count", r.Count)
	if !r.First.IsZero() {
		w.moment("first", r.First)
	}
	w.some("cluster", r.Cluster)
	w.some("history", r.HistoryID)
	w.count("dropped_from", r.DroppedFrom)
	w.count("dropped_to", r.DroppedTo)
	if r.DroppedHash != (Hash{}) {
		w.raw("dropped_hash", r.DroppedHash.String())
	}
	if r.Seal != nil {
		w.seal(r.Seal)
	}
	return append(w.buf, '}')
}

// Parse reads a line.
func Parse(line []byte) (Record, error) {
	var r Record
	if err := json.Unmarshal(line, &r); err != nil {
		return Record{}, fmt.Errorf("audit record: %w", err)
	}
	if r.Seq == 0 || r.Did == "" {
		return Record{}, fmt.Errorf("audit record: it has no number or says nothing")
	}
	return r, nil
}

// Cut returns text as a record holds it: bounded, in whole letters.
func Cut(text string) string {
	if len(text) <= maxText {
		return text
	}
	n := maxText
	for n > 0 && !utf8.RuneStart(text[n]) {
		n--
	}
	return text[:n] + "…"
}
