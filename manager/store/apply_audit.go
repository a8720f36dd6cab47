package store

import (
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/audit"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// audited adds to the trail what was asked for by tx, which was applied: changes
// is what it changed, was the cluster before it, before the state before the entry.
// What the swarm does by itself on tasks and nodes has no deed, and costs nothing.
func (s *state) audited(before *state, tx *logv1.Transaction, was []byte, changes []Change) {
	if h := s.cluster.GetHistory(); len(was) > 0 && !slices.Equal(was, h) {
		s.record(audit.Record{Who: audit.Swarm, Did: audit.History, Result: audit.Done, Cluster: idText(s.cluster.GetId()), HistoryID: idText(h)})
	}
	if d := tx.GetDeed(); d != nil && len(tx.GetUnits()) > 0 {
		r := deed(d)
		r.Result = audit.Done
		if req := tx.GetRequest(); req != nil {
			r.Request = hex.EncodeToString(req.GetId())
		}
		r.Objects, r.More = s.touched(before, changes)
		s.record(r)
	}
	for _, v := range tx.GetSights() {
		s.record(sight(v))
	}
	if v := tx.GetSeal(); v != nil {
		s.record(audit.Record{Who: audit.Swarm, Did: audit.Checkpoint, Result: audit.Done, Seal: seal(v)})
	}
}

// record adds r to the trail, behind the record that begins one.
func (s *state) record(r audit.Record) {
	r.Index, r.At = s.index, time.Unix(0, s.now)
	if s.trail.Len() == 0 {
		s.trail.Append(audit.Record{Index: r.Index, At: r.At, Who: audit.Swarm, Did: audit.Begin, Result: audit.Done,
			Cluster: idText(s.cluster.GetId()), HistoryID: idText(s.cluster.GetHistory())})
	}
	s.trail.Append(r)
}

// deed is who and what of a record. A manager that lies about what it saw does not
// break the chain by it.
func deed(d *logv1.Deed) audit.Record {
	r := audit.Record{Who: d.GetWho(), User: idText(d.GetUser()), On: idText(d.GetOn()), From: d.GetFrom(), Via: idText(d.GetVia()), Did: d.GetDid()}
	if audit.Own(r.Did) {
		r.Did = "Unknown" + r.Did
	}
	return r
}

func sight(v *logv1.Sight) audit.Record {
	r := deed(v.GetDeed())
	r.By, r.Code, r.Reason, r.Result = idText(v.GetBy()), v.GetCode(), v.GetReason(), audit.Refused
	if r.Code == "" {
		r.Result = audit.Done
	}
	if v.GetCount() > 1 {
		r.Count, r.First = v.GetCount(), time.Unix(0, v.GetFirst())
	}
	return r
}

func seal(v *logv1.Seal) *audit.Seal {
	out := &audit.Seal{Cluster: idText(v.GetCluster()), History: idText(v.GetHistory()), Seq: v.GetSeq(), At: time.Unix(0, v.GetAt()), Signature: v.GetSignature()}
	copy(out.Hash[:], v.GetHash())
	copy(out.Root[:], v.GetRoot())
	out.Manager = v.GetManager()
	return out
}

// maxTouched is how many objects a record names.
const maxTouched = 16

// touched returns the objects that changes are of, with the names they have, or
// had before the entry, and how many there are besides.
func (s *state) touched(before *state, changes []Change) (out []audit.Object, more int) {
	now, then := &Snapshot{state: s}, &Snapshot{state: before}
	for i, c := range changes {
		kind, text := objectKind(c)
		if kind == "" || slices.ContainsFunc(changes[:i], func(d Change) bool { return d.Kind == c.Kind && slices.Equal(d.Key, c.Key) }) {
			continue
		}
		if len(out) == maxTouched {
			more++
			continue
		}
		name, words := became(then, now, c)
		out = append(out, audit.Object{Kind: kind, ID: text, Name: name, Became: words})
	}
	return out, more
}

// objectKind returns what a record calls the object of a change and its id; "" for
// what no record is about: it comes with another.
func objectKind(c Change) (kind, text string) {
	switch c.Kind {
	case KindCluster:
		kind = "cluster"
	case KindNode:
		kind = "node"
	case KindService:
		kind = "service"
	case KindUser:
		kind = "user"
	case KindToken:
		kind = "token"
	case KindMember:
		return "member", fmt.Sprintf("%x", c.Key)
	default:
		return "", ""
	}
	return kind, idText(c.Key)
}

// idText spells an id; "" if it is none.
func idText(b []byte) string {
	x, err := id.FromBytes(b)
	if err != nil || x.IsZero() {
		return ""
	}
	return x.String()
}

// unknownAudit reports whether what tx has for the trail holds fields of a later
// version.
func unknownAudit(tx *logv1.Transaction) bool {
	later := func(d *logv1.Deed) bool { return d != nil && len(d.ProtoReflect().GetUnknown()) > 0 }
	return later(tx.GetDeed()) || tx.GetSeal() != nil && len(tx.GetSeal().ProtoReflect().GetUnknown()) > 0 ||
		slices.ContainsFunc(tx.GetSights(), func(v *logv1.Sight) bool {
			return len(v.ProtoReflect().GetUnknown()) > 0 || later(v.GetDeed())
		})
}
