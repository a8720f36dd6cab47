package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// partLines is how many records one message holds at most: some 100 KiB.
	partLines = 256
	// maxTail bounds what is kept to find the newest that pass.
	maxTail = 10_000
)

// ReadAudit gives the records of the audit trail, of a snapshot and then, if asked
// for, as they come; or all of them with what proves them whole.
func (s *Server) ReadAudit(msg *controlv1.ReadAuditRequest, stream grpc.ServerStreamingServer[controlv1.ReadAuditResponse]) error {
	if err := checkReadAudit(msg); err != nil {
		return err
	}
	if msg.GetExport() {
		return s.exportAudit(s.snapshot(), stream)
	}
	w := s.cfg.DB.Store().Watch(store.Key{Kind: store.KindAudit}) // before the look, so that nothing is missed
	defer w.Close()
	snap := s.snapshot()
	r := &auditReader{msg: msg, stream: stream, at: msg.GetAfter()}
	if last := snap.Trail().Last(); r.at > last {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrOutOfRange, "there is no record %d: the newest is %d", r.at, last),
			"the swarm was restored from an older state: read from the beginning, or leave --since out")
	}
	if msg.GetSince() > 0 {
		r.at = max(r.at, snap.Trail().Since(time.Unix(0, msg.GetSince())))
	}
	beat := time.NewTicker(contactBeat)
	defer beat.Stop()
	for {
		over := msg.GetUntil() != 0 && now(snap) > msg.GetUntil()
		if err := r.read(snap); err != nil || r.done || over || !msg.GetFollow() {
			return err
		}
		if err := s.awaitAudit(stream.Context(), w, beat.C); err != nil {
			return err
		}
		snap = s.snapshot()
	}
}

// awaitAudit returns when there may be more. A manager that does not hear the
// quorum has nothing to tell: another may.
func (s *Server) awaitAudit(ctx context.Context, w *store.Watch, beat <-chan time.Time) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-w.C():
		w.Take()
	case <-beat:
		return s.cfg.Group.Contact()
	}
	return nil
}

func checkReadAudit(msg *controlv1.ReadAuditRequest) error {
	f := msg.GetFilter()
	var fs faults
	fs.check(len(f.GetWho())+len(f.GetObjects())+len(f.GetDid())+len(f.GetResults()) <= maxFilter, "filter: more than %d words", maxFilter)
	fs.check(msg.GetSince() >= 0 && msg.GetUntil() >= 0, "since and until: want times after 1970")
	fs.check(msg.GetTail() <= maxTail, "tail %d: at most %d", msg.GetTail(), maxTail)
	for _, r := range f.GetResults() {
		fs.check(r == audit.Done || r == audit.Refused, "result %q: want %s or %s", cut(r), audit.Done, audit.Refused)
	}
	return fs.refusal("audit")
}

// An auditReader serves one caller.
type auditReader struct {
	msg    *controlv1.ReadAuditRequest
	stream grpc.ServerStreamingServer[controlv1.ReadAuditResponse]
	// at is the record looked at last; sent says that a message was.
	at   uint64
	sent bool
	done bool
}

// read sends what a snapshot holds behind at and passes. The first message comes in
// any case: it says from where on.
func (r *auditReader) read(snap *store.Snapshot) error {
	tail := r.msg.GetTail()
	if r.sent {
		tail = 0
	}
	var lines [][]byte
	for seq, line := range snap.Trail().After(r.at) {
		rec, err := audit.Parse(line)
		if err != nil {
			return rpc.Errorf(errdefs.ErrDataLoss, "record %d of the audit trail is not readable: %v", seq, err)
		}
		if until := r.msg.GetUntil(); until != 0 && rec.At.UnixNano() > until {
			r.done = true
			break
		}
		r.at = seq
		if !passesAudit(&rec, r.msg.GetFilter()) {
			continue
		}
		lines = append(lines, line)
		switch {
		case tail > 0:
			lines = lines[max(0, len(lines)-int(tail)):]
		case len(lines) == partLines:
			if err := r.send(lines); err != nil {
				return err
			}
			lines = nil
		}
	}
	for len(lines) > partLines {
		if err := r.send(lines[:partLines]); err != nil {
			return err
		}
		lines = lines[partLines:]
	}
	if len(lines) == 0 && r.sent {
		return nil
	}
	return r.send(lines)
}

func (r *auditReader) send(lines [][]byte) error {
	r.sent = true
	return r.stream.Send(&controlv1.ReadAuditResponse{Lines: lines, At: r.at})
}

// passesAudit reports whether f lets a record through.
func passesAudit(r *audit.Record, f *controlv1.AuditFilter) bool {
	return someOf(f.GetWho(), func(w string) bool { return isWho(r, w) }) &&
		someOf(f.GetObjects(), func(w string) bool { return isAbout(r, w) }) &&
		someOf(f.GetDid(), func(w string) bool { return strings.EqualFold(w, r.Did) }) &&
		someOf(f.GetResults(), func(w string) bool { return w == r.Result })
}

func someOf(want []string, is func(string) bool) bool {
	return len(want) == 0 || slices.ContainsFunc(want, is)
}

// isWho reports whether a word names who asked: as records have it, or without the
// kind; of a node the beginning of its id.
func isWho(r *audit.Record, word string) bool {
	_, name, _ := strings.Cut(r.Who, ":")
	return word == r.Who || name != "" && word == name || word == r.User ||
		strings.HasPrefix(r.Who, "node:") && (strings.HasPrefix(name, word) || strings.HasPrefix(r.Who, word) && len(word) > len("node:"))
}

// isAbout reports whether a word is the name, or begins the id, of what a record
// is about.
func isAbout(r *audit.Record, word string) bool {
	kind, rest, typed := strings.Cut(word, ":")
	return slices.ContainsFunc(r.Objects, func(o audit.Object) bool {
		return word == o.Name || strings.HasPrefix(o.ID, word) ||
			typed && kind == o.Kind && (rest == o.Name || rest != "" && strings.HasPrefix(o.ID, rest))
	})
}

// exportAudit sends the whole trail with its head, and a seal over its last record
// that the CA's key signs, or this manager's if that is elsewhere.
func (s *Server) exportAudit(snap *store.Snapshot, stream grpc.ServerStreamingServer[controlv1.ReadAuditResponse]) error {
	c, err := cluster(snap)
	if err != nil {
		return err
	}
	trail := snap.Trail()
	seal, err := s.sealOf(c, trail, snap.Now())
	if err != nil {
		return err
	}
	head := &controlv1.AuditHead{Cluster: c.GetId(), History: c.GetHistory(), Roots: c.GetRoot().GetCertificates()}
	if err := stream.Send(&controlv1.ReadAuditResponse{Head: head}); err != nil {
		return err
	}
	var lines [][]byte
	for seq, line := range trail.After(0) {
		if lines = append(lines, line); len(lines) == partLines || seq == trail.Last() {
			if err := stream.Send(&controlv1.ReadAuditResponse{Lines: lines, At: seq}); err != nil {
				return err
			}
			lines = nil
		}
	}
	return stream.Send(&controlv1.ReadAuditResponse{At: trail.Last(), Seal: seal})
}

// sealOf has the trail as it is signed. If nothing can sign, the seal is without a
// signature, and says so.
func (s *Server) sealOf(c *modelv1.Cluster, trail *audit.Trail, at time.Time) (*controlv1.AuditSeal, error) {
	v := &audit.Seal{Cluster: idOf(c.GetId()).String(), History: idOf(c.GetHistory()).String(), Seq: trail.Last(), Hash: trail.Head(), At: at}
	if err := s.cfg.Seal(c.GetRoot(), audit.ForExport, v); err != nil {
		return nil, err
	}
	return &controlv1.AuditSeal{Seq: v.Seq, Hash: v.Hash[:], At: at.UnixNano(), Root: v.Root[:], Signature: v.Signature, Manager: v.Manager}, nil
}
