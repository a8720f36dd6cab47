package store

import (
	"fmt"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/invariant"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	"google.golang.org/protobuf/proto"
)

// Apply changes the state by one committed entry and returns what became of each
// transaction: nil, *Conflict, *Duplicate, *Partial or *Unreadable. Every replica
// runs it, so it may read the entry and the state and nothing else: no clock, no
// random number, no map order, no error that depends on the machine it runs on.
//
// clock is the proposer's, in Unix nanoseconds; an entry without one has 0. index
// is greater than that of any entry before; indexes may be left out.
//
// One Snapshot is published for the call, and the watches are woken after it.
// If one transaction is Unreadable, nothing is applied or published and every
// transaction gets that error: the manager must stop.
func (s *Store) Apply(index uint64, clock int64, txs [][]byte) []error {
	parsed := make([]*logv1.Transaction, len(txs))
	for i, data := range txs {
		tx := &logv1.Transaction{}
		if err := proto.Unmarshal(data, tx); err != nil {
			return repeat(&Unreadable{Index: index, What: fmt.Sprintf("transaction %d is malformed", i)}, len(txs))
		}
		parsed[i] = tx
	}
	return s.apply(index, clock, parsed)
}

// ApplyProto is Apply for transactions that are messages already. They stay the
// caller's.
func (s *Store) ApplyProto(index uint64, clock int64, txs []*logv1.Transaction) []error {
	own := make([]*logv1.Transaction, len(txs))
	for i, tx := range txs {
		own[i] = proto.CloneOf(tx)
	}
	return s.apply(index, clock, own)
}

// apply owns txs: what they hold becomes the state's.
func (s *Store) apply(index uint64, clock int64, txs []*logv1.Transaction) []error {
	s.writing.Lock()
	defer s.writing.Unlock()
	for i, tx := range txs {
		if what := unreadable(tx); what != "" {
			return repeat(&Unreadable{Index: index, What: fmt.Sprintf("transaction %d %s", i, what)}, len(txs))
		}
	}
	cur := s.snap.Load()
	invariant.Check(index > cur.Index(), "entry %d applied at index %d", index, cur.Index())
	next := cur.fork()
	next.index, next.now = index, max(next.now, clock)
	results := make([]error, len(txs))
	for i, tx := range txs {
		was, from := next.cluster.GetHistory(), len(next.changes)
		results[i] = next.transact(tx)
		next.undo = next.undo[:0]
		if applied(results[i]) {
			next.audited(cur.state, tx, was, next.changes[from:])
		}
	}
	if next.trail.Last() != cur.state.trail.Last() {
		next.note(Change{Kind: KindAudit})
	}
	next.forgetAnswers()
	s.publish(next)
	return results
}

// applied reports whether a transaction with the result changed anything.
func applied(result error) bool {
	if result == nil {
		return true
	}
	_, partly := result.(*Partial) //nolint:errorlint // apply's own, and never wrapped
	return partly
}

func repeat(err error, n int) []error {
	errs := make([]error, max(n, 1))
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// unreadable says what in tx this version does not know; "" if it knows it all.
// A field or an operation that is not understood must not be skipped.
func unreadable(tx *logv1.Transaction) string {
	if len(tx.ProtoReflect().GetUnknown()) > 0 {
		return "has a field of a later version"
	}
	for _, u := range tx.GetUnits() {
		if len(u.ProtoReflect().GetUnknown()) > 0 {
			return "has a unit with a field of a later version"
		}
		for _, e := range u.GetExpects() {
			if !known(e.GetKind()) {
				return fmt.Sprintf("expects a version of an object of kind %d", e.GetKind())
			}
		}
		for _, op := range u.GetOperations() {
			if op.GetOp() == nil || len(op.ProtoReflect().GetUnknown()) > 0 {
				return "has an operation of a later version"
			}
			if d := op.GetDelete(); d != nil && !known(d.GetKind()) {
				return fmt.Sprintf("deletes an object of kind %d", d.GetKind())
			}
		}
	}
	for _, m := range tx.GetMoves() {
		if unknownMoves(m) {
			return "has moves with a field of a later version"
		}
	}
	if unknownAudit(tx) {
		return "has a field for the audit trail of a later version"
	}
	return ""
}

func known(k logv1.Kind) bool { return k >= KindCluster && k <= KindToken }

// transact applies one transaction to the working state.
func (s *state) transact(tx *logv1.Transaction) error {
	if req := tx.GetRequest(); req != nil {
		return s.answer(req, tx)
	}
	var p Partial
	number := 0
	count := func(c *Conflict) {
		if c != nil {
			p.Units = append(p.Units, number)
			p.Conflicts = append(p.Conflicts, c)
		}
		number++
	}
	for _, u := range tx.GetUnits() {
		count(s.unit(u))
	}
	for _, m := range tx.GetMoves() {
		v := s.newMover(m)
		for _, move := range m.GetMoves() {
			count(v.move(move))
		}
	}
	switch {
	case len(p.Units) == 0:
		return nil
	case number == 1:
		return p.Conflicts[0]
	}
	return &p
}

// answer applies the one unit of a request once (R10).
func (s *state) answer(req *logv1.Request, tx *logv1.Transaction) error {
	if a, ok := s.answered.get(&logv1.Answered{Request: req}); ok {
		return duplicate(a)
	}
	units := tx.GetUnits()
	if len(units) != 1 || len(tx.GetMoves()) > 0 {
		return refuse(0, nil, "request with %d units and %d moves, want one unit", len(units), len(tx.GetMoves()))
	}
	if c := s.unit(units[0]); c != nil {
		return c
	}
	put(s, &s.answered, &logv1.Answered{Request: req, Index: s.index, At: s.now}, Change{})
	return nil
}

func duplicate(a *logv1.Answered) *Duplicate {
	d := &Duplicate{Hash: a.GetRequest().GetHash(), Index: a.GetIndex()}
	for _, b := range a.GetRequest().GetObjects() {
		d.Objects = append(d.Objects, asID(b))
	}
	return d
}

// How long an answered request is remembered (R10), in log time and in number. The
// newest stay whatever their age: a leader whose clock jumps by a day makes all of
// them a day old at once, while the requests that they answer are tried again.
const (
	maxAnsweredAge = 24 * 3600 * 1e9
	maxAnswered    = 100_000
	minAnswered    = 10_000
)

// forgetAnswers drops the oldest answers beyond the bounds.
func (s *state) forgetAnswers() {
	for {
		oldest, ok := s.answered.min(answeredByIndex)
		kept := s.answered.len()
		if !ok || kept <= minAnswered || oldest.GetAt() >= s.now-maxAnsweredAge && kept <= maxAnswered {
			return
		}
		drop(s, &s.answered, oldest, Change{})
	}
}

// unit applies u whole, or takes it back and says why not.
func (s *state) unit(u *logv1.Unit) *Conflict {
	for _, e := range u.GetExpects() {
		if c := s.expect(e); c != nil {
			return c
		}
	}
	undo, changes := s.mark()
	for _, op := range u.GetOperations() {
		if c := s.operate(op); c != nil {
			s.rollback(undo, changes)
			return c
		}
	}
	return nil
}

func (s *state) expect(e *logv1.Expect) *Conflict {
	have := s.version(e.GetKind(), e.GetKey())
	if have == e.GetVersion() {
		return nil
	}
	return outdated(e.GetKind(), e.GetKey(), have, e.GetVersion())
}

// outdated builds the Conflict of an object that has another version than was
// relied on.
func outdated(kind logv1.Kind, key []byte, have, want uint64) *Conflict {
	switch {
	case have == 0:
		return refuse(kind, key, "does not exist, expected version %d", want)
	case want == 0:
		return refuse(kind, key, "exists already, with version %d", have)
	}
	return refuse(kind, key, "has version %d, expected %d", have, want)
}

// refuse builds the Conflict of one object.
func refuse(kind logv1.Kind, key []byte, format string, args ...any) *Conflict {
	return &Conflict{Kind: kind, Key: key, What: fmt.Sprintf(format, args...)}
}

// version returns what an Expect names; 0 if the object does not exist.
func (s *state) version(kind logv1.Kind, key []byte) uint64 {
	snap := Snapshot{state: s}
	switch kind {
	case KindCluster:
		return s.cluster.GetMeta().GetVersion()
	case KindNode:
		return snap.Node(asID(key)).GetMeta().GetVersion()
	case KindMember:
		if raftID, ok := ParseMemberKey(key); ok {
			return snap.Member(raftID).GetMeta().GetVersion()
		}
	case KindService:
		return snap.Service(asID(key)).GetMeta().GetVersion()
	case KindRevision:
		if service, number, ok := parseRevisionKey(key); ok {
			return snap.Revision(id.ID(service), number).GetMeta().GetVersion()
		}
	case KindTask:
		if t := snap.Task(asID(key)); t != nil {
			return t.DecidedIndex
		}
	case KindUser:
		return snap.User(asID(key)).GetMeta().GetVersion()
	case KindToken:
		return snap.Token(asID(key)).GetMeta().GetVersion()
	case KindClaim:
		if kind, key, ok := parseClaimKey(key); ok {
			return snap.Claim(kind, key).GetVersion()
		}
	}
	return 0
}
