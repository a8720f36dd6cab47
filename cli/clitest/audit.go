package clitest

import (
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// A Trail is an audit trail, and the CA that signs it.
type Trail struct {
	audit.Trail
	// Root is DER.
	Root []byte
	key  sealed.Secret
}

// NewTrail returns a trail of records, a second apart, and its CA.
func NewTrail(records ...audit.Record) (*Trail, error) {
	t := &Trail{}
	cluster, err := id.FromBytes(ID("cluster"))
	if err != nil {
		return nil, err
	}
	if t.Root, t.key, err = issue.NewRoot(cluster, time.Now()); err != nil {
		return nil, err
	}
	t.Append(audit.Record{Index: 1, At: Epoch.Add(-time.Hour), Who: audit.Swarm, Did: audit.Begin, Result: audit.Done, Cluster: cluster.String(), HistoryID: cluster.String()})
	for i, r := range records {
		r.Index, r.At = uint64(i+2), Epoch.Add(time.Duration(i-60)*time.Second)
		t.Append(r)
	}
	return t, nil
}

// Narrowed is what ReadAudit was asked last.
func (s *Swarm) Narrowed() *controlv1.ReadAuditRequest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.narrowed
}

// ReadAudit implements the Control service: it gives what Trail holds behind the
// record asked for, one a message, and does not narrow it. A failure planned for it
// comes before the last message.
func (s *Swarm) ReadAudit(q *controlv1.ReadAuditRequest, stream grpc.ServerStreamingServer[controlv1.ReadAuditResponse]) error {
	s.mu.Lock()
	s.narrowed = q
	fail := s.fail("ReadAudit")
	tell, err := s.Trail.answer(q)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if fail != nil {
		tell = tell[:len(tell)-1]
	}
	for _, m := range tell {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return fail
}

// answer is all that is told to q.
func (t *Trail) answer(q *controlv1.ReadAuditRequest) (out []*controlv1.ReadAuditResponse, err error) {
	if q.GetExport() {
		out = append(out, &controlv1.ReadAuditResponse{Head: &controlv1.AuditHead{Cluster: ID("cluster"), History: ID("cluster"), Roots: [][]byte{t.Root}}})
	}
	for seq, line := range t.After(q.GetAfter()) {
		out = append(out, &controlv1.ReadAuditResponse{Lines: [][]byte{line}, At: seq})
	}
	if !q.GetExport() {
		return out, nil
	}
	cluster, err := id.FromBytes(ID("cluster"))
	if err != nil {
		return nil, err
	}
	v := &audit.Seal{Cluster: cluster.String(), History: cluster.String(), Seq: t.Last(), Hash: t.Head(), At: Epoch}
	if err := v.Sign(audit.ForExport, [][]byte{t.Root}, t.key); err != nil {
		return nil, err
	}
	return append(out, &controlv1.ReadAuditResponse{Seal: &controlv1.AuditSeal{
		Seq: v.Seq, Hash: v.Hash[:], At: v.At.UnixNano(), Root: v.Root[:], Signature: v.Signature,
	}}), nil
}
