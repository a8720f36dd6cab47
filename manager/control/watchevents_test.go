package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// ear is the caller of WatchEvents.
type ear struct {
	grpc.ServerStream
	ctx   context.Context
	heard chan *controlv1.WatchEventsResponse
}

func (e *ear) Context() context.Context { return e.ctx }

func (e *ear) Send(m *controlv1.WatchEventsResponse) error {
	select {
	case e.heard <- m:
		return nil
	case <-e.ctx.Done():
		return e.ctx.Err()
	}
}

// listen has a caller ask q; what it hears comes out, and at the end the error.
func (w *world) listen(q *controlv1.WatchEventsRequest) (next func() string, end func() error) {
	return w.listenAs(rpc.Caller{Kind: rpc.User, Local: true}, q)
}

func (w *world) listenAs(who rpc.Caller, q *controlv1.WatchEventsRequest) (next func() string, end func() error) {
	ctx, stop := context.WithCancel(rpc.WithCaller(w.Context(), who))
	e := &ear{ctx: ctx, heard: make(chan *controlv1.WatchEventsResponse)}
	done := make(chan error, 1)
	go func() {
		done <- w.WatchEvents(q, e)
		close(e.heard)
	}()
	next = func() string {
		m, ok := <-e.heard
		if !ok {
			return "end"
		}
		text := fmt.Sprint("@", m.GetIndex())
		for _, v := range m.GetEvents() {
			text += " " + v.GetType() + "/" + v.GetAction()
		}
		for word, said := range map[string]bool{" open": !m.GetLast(), " reset": m.GetReset_()} {
			if said {
				text += word
			}
		}
		return text
	}
	return next, func() error { stop(); return <-done }
}

func (w *world) note(action string, times int) {
	w.Helper()
	var ops []*logv1.Operation
	for range times {
		ops = append(ops, &logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "swarm", Action: action}}})
	}
	w.do(ops...)
}

func TestAnIndexIsToldWholeAndClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1) // four indexes: cluster, node, its status, member
	head := w.snapshot().Index()
	next, end := w.listen(&controlv1.WatchEventsRequest{})
	if got, want := next(), fmt.Sprint("@", head); got != want {
		t.Errorf("first %q, want the place it begins at, %q", got, want)
	}
	w.note("leader", 300)
	w.node(2, worker)
	first, second := next(), next()
	if !strings.HasSuffix(first, " open") || strings.Count(first, "leader") != partEvents ||
		strings.HasSuffix(second, " open") || strings.Count(second, "leader") != 300-partEvents {
		t.Errorf("the index of 300 came as %d and %d, %q", strings.Count(first, "leader"), strings.Count(second, "leader"), second)
	}
	if got, want := next(), fmt.Sprint("@", head+2, " node/create node/ready"); got != want {
		t.Errorf("then %q, want %q", got, want)
	}
	if err := end(); !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestAReaderResumesOrIsReset(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	head := w.snapshot().Index()
	w.note("leader", 1)
	for _, tt := range []struct {
		name string
		q    *controlv1.WatchEventsRequest
		want []string
	}{
		{"behind an index", &controlv1.WatchEventsRequest{After: &head}, []string{fmt.Sprint("@", head), fmt.Sprint("@", head+1, " swarm/leader")}},
		{"from the beginning", &controlv1.WatchEventsRequest{After: proto.Uint64(0)}, []string{"@0", "@1 swarm/create", "@2 node/create node/ready"}},
		{"from a time", &controlv1.WatchEventsRequest{Since: 1}, []string{"@0", "@1 swarm/create"}},
		{"from an index of another history", &controlv1.WatchEventsRequest{After: proto.Uint64(head + 50)}, []string{fmt.Sprint("@", head+1, " reset")}},
		{"until a time that was", &controlv1.WatchEventsRequest{After: proto.Uint64(0), Until: 1}, []string{"@0", "@0", "end"}},
		{"what is filtered", &controlv1.WatchEventsRequest{After: proto.Uint64(0), Until: time.Now().UnixNano(), Filter: &controlv1.EventFilter{Actions: []string{"leader"}}},
			[]string{"@0", fmt.Sprint("@", head+1, " swarm/leader"), fmt.Sprint("@", head+1), "end"}},
	} {
		next, end := w.listen(tt.q)
		for i, want := range tt.want {
			if got := next(); got != want {
				t.Errorf("%s: message %d is %q, want %q", tt.name, i, got, want)
			}
		}
		_ = end()
	}
}

func TestAManagerThatIsCutOffEndsItsWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		next, end := w.listen(&controlv1.WatchEventsRequest{})
		next()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		lost := errors.New("nobody answers")
		w.cutOff.Store(&lost)
		if got := next(); got != "end" {
			t.Errorf("told %q, want the end", got)
		}
		if err := end(); !errors.Is(err, lost) {
			t.Errorf("ended with %v, want the refusal", err)
		}
	})
}

func TestWatchEventsRefusesWhatHasNoSense(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	for name, q := range map[string]*controlv1.WatchEventsRequest{
		"exclude each other": {After: proto.Uint64(1), Since: 1},
		"after 1970":         {Since: -1},
		"at most 1000":       {Filter: &controlv1.EventFilter{Labels: make([]string, 1001)}},
		"no event donw":      {Filter: &controlv1.EventFilter{Actions: []string{"donw"}}},
	} {
		if err := w.WatchEvents(q, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%v, want one that says %q", err, name)
		}
	}
}

// TestWhoAsksForWhatComesIsNotToldThatHeMissedWhatWas: a manager that joins may be
// asked before it is given the state by a snapshot, and only then has a now.
func TestWhoAsksForWhatComesIsNotToldThatHeMissedWhatWas(t *testing.T) {
	t.Parallel()
	other := newWorld(t, 1)
	other.note("leader", 1)
	head := other.snapshot().Index()
	install := func(w *world) {
		var b bytes.Buffer
		if err := other.snapshot().Encode(&b); err != nil {
			t.Fatal(err)
		}
		if err := w.cfg.DB.Store().Restore(&b); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name            string
		w               *world
		q               *controlv1.WatchEventsRequest
		first, restored string
	}{
		{"a manager that joins", emptyWorld(t), &controlv1.WatchEventsRequest{}, "@0", fmt.Sprint("@", head)},
		{"one that joins, asked for all there was", emptyWorld(t), &controlv1.WatchEventsRequest{After: proto.Uint64(0)}, "@0", fmt.Sprint("@", head, " reset")},
		{"one that fell behind", newWorld(t, 1), &controlv1.WatchEventsRequest{}, fmt.Sprint("@", head-1), fmt.Sprint("@", head, " reset")},
	} {
		next, end := tt.w.listen(tt.q)
		if got := next(); got != tt.first {
			t.Errorf("%s: first %q, want %q", tt.name, got, tt.first)
		}
		install(tt.w)
		if got := next(); got != tt.restored {
			t.Errorf("%s: then %q, want %q", tt.name, got, tt.restored)
		}
		tt.w.note("leader", 1)
		if got, want := next(), fmt.Sprint("@", head+1, " swarm/leader"); got != want {
			t.Errorf("%s: and then %q, want %q", tt.name, got, want)
		}
		_ = end()
	}
	late := newWorld(t, 1)
	install(late)
	next, end := late.listen(&controlv1.WatchEventsRequest{})
	if got, want := next(), fmt.Sprint("@", head); got != want {
		t.Errorf("behind the snapshot: first %q, want %q", got, want)
	}
	_ = end()
}

// TestUsersAreToldOfToThoseWhoMayListThem: the others hear of the same index what
// else there is, and are refused if users are what they ask for.
func TestUsersAreToldOfToThoseWhoMayListThem(t *testing.T) {
	t.Parallel()
	person := func(role modelv1.UserRole) rpc.Caller { return rpc.Caller{Kind: rpc.User, User: "bob", Rights: role} }
	for _, tt := range []struct {
		who  rpc.Caller
		want string
	}{
		{rpc.Caller{Kind: rpc.User, Local: true}, "user/create token/create swarm/leader"},
		{person(modelv1.UserRole_USER_ROLE_ADMIN), "user/create token/create swarm/leader"},
		{person(modelv1.UserRole_USER_ROLE_OPERATOR), "swarm/leader"},
		{person(modelv1.UserRole_USER_ROLE_VIEWER), "swarm/leader"},
		{rpc.Caller{}, "swarm/leader"},
	} {
		w := newWorld(t, 1)
		head := w.snapshot().Index()
		w.do(&logv1.Operation{Op: &logv1.Operation_PutUser{PutUser: &modelv1.User{Id: num(30).Bytes(), Name: "alice"}}},
			&logv1.Operation{Op: &logv1.Operation_PutToken{PutToken: &modelv1.JoinToken{Id: num(31).Bytes(), SecretHash: []byte("h"), Uses: 1}}},
			&logv1.Operation{Op: &logv1.Operation_Note{Note: &logv1.Note{Type: "swarm", Action: "leader"}}})
		next, end := w.listenAs(tt.who, &controlv1.WatchEventsRequest{After: &head})
		_ = next() // where it begins
		if got, want := next(), fmt.Sprint("@", head+1, " ", tt.want); got != want {
			t.Errorf("%+v hears %q, want %q", tt.who, got, want)
		}
		if err := end(); !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
		if strings.HasPrefix(tt.want, "user") {
			continue
		}
		for _, kind := range []string{"user", "token"} {
			_, end = w.listenAs(tt.who, &controlv1.WatchEventsRequest{Filter: &controlv1.EventFilter{Types: []string{kind}}})
			if err := end(); !errdefs.IsPermissionDenied(err) {
				t.Errorf("%+v asks for %ss: %v, want a refusal", tt.who, kind, err)
			}
		}
	}
}
