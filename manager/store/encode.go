package store

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"iter"

	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

// snapshotFormat is the version of the stream. A reader that meets another one
// stops.
const snapshotFormat = 1

// Encode writes the snapshot: length-delimited Records, a header first and an end
// that counts what is between. It reads a state that does not change, so it may
// take its time. Equal states give equal bytes.
func (s *Snapshot) Encode(w io.Writer) error {
	e := encoder{w: bufio.NewWriterSize(w, 64<<10)}
	e.one(&logv1.Record{Record: &logv1.Record_Header{Header: &logv1.SnapshotHeader{
		Format: snapshotFormat, Index: s.state.index, LogTime: s.state.now,
	}}})
	e.records = 0
	if c := s.state.cluster; c != nil {
		e.one(&logv1.Record{Record: &logv1.Record_Cluster{Cluster: c}})
	}
	each(&e, s.Nodes(), func(v *modelv1.Node) *logv1.Record { return &logv1.Record{Record: &logv1.Record_Node{Node: v}} })
	each(&e, s.Members(), func(v *modelv1.Member) *logv1.Record { return &logv1.Record{Record: &logv1.Record_Member{Member: v}} })
	each(&e, s.Services(), func(v *modelv1.Service) *logv1.Record {
		return &logv1.Record{Record: &logv1.Record_Service{Service: v}}
	})
	each(&e, s.state.revisions.all(), func(v *modelv1.Revision) *logv1.Record {
		return &logv1.Record{Record: &logv1.Record_Revision{Revision: v}}
	})
	each(&e, s.Tasks(), func(v *Task) *logv1.Record { return &logv1.Record{Record: &logv1.Record_Task{Task: v.Proto()}} })
	each(&e, s.state.claims.all(), func(v *modelv1.Claim) *logv1.Record {
		return &logv1.Record{Record: &logv1.Record_Claim{Claim: v}}
	})
	each(&e, s.Users(), func(v *modelv1.User) *logv1.Record { return &logv1.Record{Record: &logv1.Record_User{User: v}} })
	each(&e, s.Tokens(), func(v *modelv1.JoinToken) *logv1.Record {
		return &logv1.Record{Record: &logv1.Record_Token{Token: v}}
	})
	each(&e, s.state.answered.all(), func(v *logv1.Answered) *logv1.Record {
		return &logv1.Record{Record: &logv1.Record_Answered{Answered: v}}
	})
	for _, line := range s.state.trail.After(0) {
		e.one(&logv1.Record{Record: &logv1.Record_Audit{Audit: line}})
	}
	e.one(&logv1.Record{Record: &logv1.Record_End{End: &logv1.SnapshotEnd{Records: e.records}}})
	if err := errors.Join(e.err, e.w.Flush()); err != nil {
		return fmt.Errorf("encode snapshot at index %d: %w", s.Index(), err)
	}
	return nil
}

var deterministic = protodelim.MarshalOptions{MarshalOptions: proto.MarshalOptions{Deterministic: true}}

// encoder writes records until the first error.
type encoder struct {
	w       *bufio.Writer
	records uint64
	err     error
}

func (e *encoder) one(r *logv1.Record) {
	if e.err == nil {
		_, e.err = deterministic.MarshalTo(e.w, r)
		e.records++
	}
}

func each[T any](e *encoder, objs iter.Seq[T], record func(T) *logv1.Record) {
	for v := range objs {
		if e.err != nil {
			return
		}
		e.one(record(v))
	}
}

// Restore replaces the whole state, index and log time included, by what Encode
// wrote. Every watch is reset. If r is no whole snapshot of a known format the
// store stays as it is.
func (s *Store) Restore(r io.Reader) error {
	next, err := decode(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	now := &Snapshot{state: next, pace: pace{}.after(next.now)}
	s.snap.Store(now)
	if s.observer != nil {
		s.observer.Restored(now)
	}
	s.hub.resetAll()
	return nil
}

// maxRecordBytes bounds one record: an object is an entry's at most, and an entry
// is far smaller.
const maxRecordBytes = 64 << 20

func decode(r protodelim.Reader) (*state, error) {
	st := newState()
	for n := uint64(0); ; n++ {
		rec := &logv1.Record{}
		if err := (protodelim.UnmarshalOptions{MaxSize: maxRecordBytes}).UnmarshalFrom(r, rec); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // the end is a record, not the end of the file
			}
			return nil, fmt.Errorf("record %d: %w", n, err)
		}
		if n == 0 {
			if err := st.header(rec.GetHeader()); err != nil {
				return nil, err
			}
			continue
		}
		if end := rec.GetEnd(); end != nil {
			if end.GetRecords() != n-1 {
				return nil, fmt.Errorf("%d records, the end says %d", n-1, end.GetRecords())
			}
			st.undo = nil
			st.recount()
			return st, nil
		}
		if !st.take(rec) {
			return nil, &Unreadable{Index: st.index, What: fmt.Sprintf("snapshot record %d is of a kind this version does not know", n)}
		}
	}
}

func (s *state) header(h *logv1.SnapshotHeader) error {
	if h == nil {
		return errors.New("the first record is no header")
	}
	if h.GetFormat() != snapshotFormat {
		return &Unreadable{Index: h.GetIndex(), What: fmt.Sprintf("snapshot format %d, this version reads %d", h.GetFormat(), snapshotFormat)}
	}
	s.index, s.now = h.GetIndex(), h.GetLogTime()
	return nil
}

// take adds one record, or reports that it does not know its kind.
func (s *state) take(rec *logv1.Record) bool {
	switch r := rec.GetRecord().(type) {
	case *logv1.Record_Cluster:
		s.cluster = r.Cluster
	case *logv1.Record_Node:
		s.nodes.set(r.Node)
	case *logv1.Record_Member:
		s.members.set(r.Member)
	case *logv1.Record_Service:
		s.services.set(r.Service)
	case *logv1.Record_Revision:
		s.revisions.set(r.Revision)
	case *logv1.Record_Task:
		t := TaskFromProto(r.Task)
		s.tasks.set(t)
		s.count(nil, t)
	case *logv1.Record_Claim:
		s.claims.set(r.Claim)
	case *logv1.Record_User:
		s.users.set(r.User)
	case *logv1.Record_Token:
		s.tokens.set(r.Token)
	case *logv1.Record_Answered:
		s.answered.set(r.Answered)
	case *logv1.Record_Audit:
		s.trail.Load(r.Audit)
	default:
		return false
	}
	return true
}
