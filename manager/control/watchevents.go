package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/control/events"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

const (
	// partEvents is how many events one message holds at most: some 100 KiB.
	partEvents = 256
	// markEvery is behind how many indexes without an event for the caller it is
	// told how far it is, so that it can go on from there at another manager.
	markEvery = 1000
	// maxFilter bounds the words of a filter.
	maxFilter = 1000
)

// WatchEvents tells what happens, index by index, until the time that was asked
// for, or until the caller goes. It keeps nothing for a caller: who reads too
// slowly finds the oldest events forgotten and is told so (R13).
func (s *Server) WatchEvents(msg *controlv1.WatchEventsRequest, stream grpc.ServerStreamingServer[controlv1.WatchEventsResponse]) error {
	if err := checkEvents(msg); err != nil {
		return err
	}
	t := &teller{Server: s, msg: msg, stream: stream, users: isAdmin(stream.Context())}
	if i := slices.IndexFunc(msg.GetFilter().GetTypes(), events.ForAdmins); i >= 0 && !t.users {
		kind := msg.GetFilter().GetTypes()[i]
		return rpc.Refuse(rpc.Errorf(errdefs.ErrPermissionDenied, "events of %ss are told to admins only", kind), "leave the type "+kind+" out")
	}
	if err := t.begin(); err != nil {
		return err
	}
	beat := time.NewTicker(contactBeat)
	defer beat.Stop()
	for {
		page := s.cfg.Events.After(t.at)
		over := msg.GetUntil() != 0 && now(s.snapshot()) > msg.GetUntil()
		if err := t.tell(page); err != nil || t.done {
			return err
		}
		switch {
		case len(page.Entries) > 0 || page.Floor != 0:
		case over:
			return t.mark(false)
		default:
			if err := t.wait(stream.Context(), page.Changed, beat.C); err != nil {
				return err
			}
		}
	}
}

func checkEvents(msg *controlv1.WatchEventsRequest) error {
	f := msg.GetFilter()
	var fs faults
	words := len(f.GetTypes()) + len(f.GetActions()) + len(f.GetNodes()) + len(f.GetServices()) + len(f.GetLabels())
	fs.check(words <= maxFilter, "filter: %d words, at most %d", words, maxFilter)
	fs.check(msg.GetSince() >= 0 && msg.GetUntil() >= 0, "since and until: want times after 1970")
	fs.check(msg.After == nil || msg.GetSince() == 0, "since: an index and a time exclude each other")
	for _, a := range f.GetActions() {
		fs.check(events.Known(a), "filter: there is no event %s: there are %s", a, strings.Join(events.Actions(), ", "))
	}
	return fs.refusal("events")
}

// isAdmin reports whether the caller may do and see everything: users and join
// tokens are for no viewer, for one. Who is root on a manager's host has no
// certificate and no role, also when another manager carried the call.
func isAdmin(ctx context.Context) bool {
	c, ok := rpc.FromContext(ctx)
	socket := c.Person.IsZero() && c.Rights == modelv1.UserRole_USER_ROLE_UNSPECIFIED
	return ok && c.Kind == rpc.User && (socket || rpc.Grants(c.Rights, rpcv1.Need_NEED_ADMIN))
}

// A teller serves one caller.
type teller struct {
	*Server
	msg    *controlv1.WatchEventsRequest
	stream grpc.ServerStreamingServer[controlv1.WatchEventsResponse]
	// at is the index told last; marked the one the caller was told of.
	at, marked uint64
	done       bool
	// empty says that the caller asked for what happens from now on, of a manager
	// that held no state yet.
	empty bool
	// users says that the caller may hear of users and join tokens. His role is the one he had when
	// the stream began: a user's never changes.
	users bool
}

// begin finds the place to begin at and says it.
func (t *teller) begin() error {
	snap, whole := t.snapshot(), true
	t.at = snap.Index()
	if t.msg.After == nil && t.msg.GetSince() == 0 {
		// A snapshot that was installed since the look only moves "now".
		t.at, t.empty = max(t.at, t.cfg.Events.After(t.at).Floor), snap.Cluster() == nil
		return t.mark(false)
	}
	switch {
	case t.msg.After != nil && t.msg.GetAfter() > snap.Index():
		whole = false // another history: what the caller saw last is not in this one
	case t.msg.After != nil:
		t.at = t.msg.GetAfter()
	default:
		t.at, whole = t.cfg.Events.Since(t.msg.GetSince(), snap.Index())
	}
	return t.mark(!whole)
}

// mark says how far the caller is.
func (t *teller) mark(reset bool) error {
	t.marked = t.at
	return t.stream.Send(&controlv1.WatchEventsResponse{Index: t.at, At: now(t.snapshot()), Last: true, Reset_: reset})
}

// tell sends what a page holds for the caller.
func (t *teller) tell(page events.Page) error {
	if page.Floor != 0 {
		t.at = page.Floor
		missed := !t.empty // the first state a manager is given is where its now begins
		t.empty = false
		return t.mark(missed)
	}
	for len(page.Entries) > 0 {
		index, n := page.Entries[0].Index, 1
		for n < len(page.Entries) && page.Entries[n].Index == index {
			n++
		}
		if until := t.msg.GetUntil(); until != 0 && page.Entries[0].At > until {
			t.done = true
			return t.mark(false)
		}
		if err := t.index(page.Entries[:n]); err != nil {
			return err
		}
		t.at, page.Entries = index, page.Entries[n:]
	}
	if t.at >= t.marked+markEvery {
		return t.mark(false)
	}
	return nil
}

// index sends the events of one index that pass, if any do, and the closing mark
// with the last of them.
func (t *teller) index(entries []events.Entry) error {
	m := &controlv1.WatchEventsResponse{Index: entries[0].Index, At: entries[0].At}
	var pass []*controlv1.Event
	for i := range entries {
		if told := t.users || !events.ForAdmins(entries[i].Event.GetType()); told && entries[i].Passes(t.msg.GetFilter()) {
			pass = append(pass, entries[i].Event)
		}
	}
	for len(pass) > 0 {
		n := min(partEvents, len(pass))
		m.Events, pass = pass[:n], pass[n:]
		m.Last = len(pass) == 0
		if err := t.stream.Send(m); err != nil {
			return err
		}
		t.marked = m.GetIndex()
		m = &controlv1.WatchEventsResponse{Index: m.GetIndex(), At: m.GetAt()}
	}
	return nil
}

// wait returns when there may be more, or when the time asked for has come. A
// manager that does not hear the quorum has nothing to tell: another may.
func (t *teller) wait(ctx context.Context, changed <-chan struct{}, beat <-chan time.Time) error {
	var due <-chan time.Time
	if until := t.msg.GetUntil(); until != 0 {
		timer := time.NewTimer(time.Duration(max(0, until-now(t.snapshot()))) + time.Millisecond)
		defer timer.Stop()
		due = timer.C
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-changed:
	case <-due:
	case <-beat:
		return t.cfg.Group.Contact()
	}
	return nil
}
