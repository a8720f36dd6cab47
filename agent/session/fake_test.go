package session

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

var (
	cluster = id.New()
	history = id.New()
)

// manager is a fake of the other side: one server, with switches.
type manager struct {
	dispatchv1.UnimplementedDispatchServer
	entry  *cav1.Manager
	server *grpc.Server

	mu       sync.Mutex
	lis      *bufconn.Listener
	dark     bool          // dials to it hang
	slow     time.Duration // from a session's opening to its welcome
	cutOff   bool          // confirms no beat
	noCommit bool          // acknowledges no report
	upTo     uint64        // confirms no beat of a session with a greater number; 0: of all
	list     *cav1.ManagerList
	end      *dispatchv1.End // said instead of a welcome
	refusal  error           // returned instead of a welcome
	first    []*dispatchv1.SessionResponse

	opens     []*dispatchv1.Open
	heard     []*dispatchv1.SessionRequest
	sessions  map[dispatchv1.Dispatch_SessionServer]bool
	farewells []modelv1.Farewell
}

func newManager(t *testing.T, address string) *manager {
	m := &manager{
		entry:    &cav1.Manager{Node: id.New().Bytes(), Address: address},
		sessions: make(map[dispatchv1.Dispatch_SessionServer]bool),
	}
	m.start(t)
	return m
}

// start makes the manager answer, anew after kill.
func (m *manager) start(t *testing.T) {
	server, lis := grpc.NewServer(), bufconn.Listen(1<<20)
	dispatchv1.RegisterDispatchServer(server, m)
	m.mu.Lock()
	m.server, m.lis = server, lis
	m.mu.Unlock()
	go server.Serve(lis)
	t.Cleanup(server.Stop)
}

func (m *manager) kill() { m.server.Stop() }

func (m *manager) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *manager) Session(s dispatchv1.Dispatch_SessionServer) error {
	open, err := s.Recv()
	if err != nil {
		return err
	}
	m.mu.Lock()
	end, refusal := m.end, m.refusal
	m.opens = append(m.opens, open.GetOpen())
	m.sessions[s] = true
	list, first, slow := m.list, m.first, m.slow
	m.mu.Unlock()
	select {
	case <-time.After(slow):
	case <-s.Context().Done():
		return s.Context().Err()
	}
	defer m.set(func() { delete(m.sessions, s) })
	if refusal != nil {
		return refusal
	}
	if end != nil {
		return s.Send(&dispatchv1.SessionResponse{End: end})
	}
	welcome := &dispatchv1.Welcome{
		Hello:           &rpcv1.Hello{Cluster: cluster.Bytes()},
		HeartbeatPeriod: int64(2 * time.Second), Lease: int64(12 * time.Second),
	}
	if err := s.Send(&dispatchv1.SessionResponse{Welcome: welcome, Managers: list}); err != nil {
		return err
	}
	for _, r := range first {
		if err := s.Send(r); err != nil {
			return err
		}
	}
	for req := open; ; {
		if bye, err := m.answer(s, open.GetOpen().GetSession(), req); bye || err != nil {
			return err
		}
		if req, err = s.Recv(); err != nil {
			return err
		}
	}
}

func (m *manager) answer(s dispatchv1.Dispatch_SessionServer, number uint64, req *dispatchv1.SessionRequest) (bool, error) {
	m.mu.Lock()
	m.heard = append(m.heard, req)
	r := &dispatchv1.SessionResponse{}
	if !m.cutOff && (m.upTo == 0 || number <= m.upTo) {
		r.Beat = req.GetBeat()
	}
	if !m.noCommit {
		r.Reports = req.GetReports().GetSequence()
	}
	m.mu.Unlock()
	if req.GetFarewell() != 0 {
		m.set(func() { m.farewells = append(m.farewells, req.GetFarewell()) })
		return true, nil
	}
	if proto.Size(r) == 0 {
		return false, nil
	}
	return false, s.Send(r)
}

// openings returns how the sessions were opened so far.
func (m *manager) openings() []*dispatchv1.Open {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.opens)
}

// messages returns what was heard so far.
func (m *manager) messages() []*dispatchv1.SessionRequest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.heard)
}

// goodbyes returns the farewells heard so far.
func (m *manager) goodbyes() []modelv1.Farewell {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.farewells)
}

// connected returns how many sessions the manager has.
func (m *manager) connected() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.sessions)
}

// reported returns the states heard, by task, the newest of each.
func (m *manager) reported() map[id.ID]modelv1.TaskState {
	m.mu.Lock()
	defer m.mu.Unlock()
	got := make(map[id.ID]modelv1.TaskState)
	for _, req := range m.heard {
		for _, r := range req.GetReports().GetReports() {
			t, _ := id.FromBytes(r.GetTask())
			got[t] = r.GetStatus().GetState()
		}
	}
	return got
}

// hands is a fake worker.
type hands struct {
	mu       sync.Mutex
	session  uint64
	managers *cav1.ManagerList
	obeyed   []*dispatchv1.Assignments
	refuse   error
	acked    map[id.ID]modelv1.TaskState
}

func (h *hands) Position() (id.ID, uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.obeyed) == 0 {
		return id.ID{}, 0
	}
	return history, h.obeyed[len(h.obeyed)-1].GetIndex()
}

func (h *hands) Obey(_ context.Context, a *dispatchv1.Assignments, _ time.Duration) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return h.refuse
	}
	h.obeyed = append(h.obeyed, a)
	return nil
}

func (h *hands) NextSession() (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.session++
	return h.session, nil
}

func (h *hands) Managers() *cav1.ManagerList {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.managers
}

func (h *hands) KeepManagers(list *cav1.ManagerList) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if list.GetIndex() <= h.managers.GetIndex() {
		return false, nil
	}
	h.managers = list
	return true, nil
}

func (h *hands) Acknowledge(_ context.Context, task id.ID, status *modelv1.TaskStatus) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.acked[task] = status.GetState()
}

func (h *hands) did() []*dispatchv1.Assignments {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.obeyed)
}

func (h *hands) acknowledged(task id.ID) modelv1.TaskState {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.acked[task]
}

// stage is one client and the managers it may speak with, inside a bubble.
type stage struct {
	*Client
	hands    *hands
	managers []*manager
	named    []*cav1.Manager // set before start

	said bytes.Buffer // the log from INFO on; the handler writes one record at a time

	mu      sync.Mutex // guards the callbacks' notes
	wishes  []*dispatchv1.Wish
	revoked []string

	stop context.CancelFunc
	ran  chan struct{}
}

// onStage runs a test with n managers inside a bubble. The client does not run
// before start.
func onStage(t *testing.T, n int, test func(t *testing.T, s *stage)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{hands: &hands{acked: make(map[id.ID]modelv1.TaskState)}, ran: make(chan struct{})}
		list := &cav1.ManagerList{Index: 1, History: history.Bytes()}
		for i := range n {
			m := newManager(t, string(rune('a'+i)))
			s.managers = append(s.managers, m)
			list.Managers = append(list.Managers, m.entry)
		}
		s.hands.managers = list
		c, err := New(Config{
			Worker: s.hands, Dial: s.dial, Hello: &rpcv1.Hello{Cluster: cluster.Bytes()},
			OnWish:    func(w *dispatchv1.Wish) { s.note(func() { s.wishes = append(s.wishes, w) }) },
			OnRevoked: func(words string) { s.note(func() { s.revoked = append(s.revoked, words) }) },
			Log: slog.New(slog.NewMultiHandler(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}),
				slog.NewTextHandler(&s.said, nil))),
		})
		if err != nil {
			t.Fatal(err)
		}
		s.Client = c
		test(t, s)
		if s.stop != nil {
			s.stop()
			<-s.ran
		}
		for _, m := range s.managers {
			m.kill()
		}
	})
}

func (s *stage) note(what func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what()
}

func (s *stage) told() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.revoked)
}

func (s *stage) wished() []*dispatchv1.Wish {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.wishes)
}

func (s *stage) start(t *testing.T) {
	s.Client.named = s.named
	ctx, stop := context.WithCancel(t.Context())
	s.stop = stop
	go func() {
		defer close(s.ran)
		if err := s.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	synctest.Wait()
}

func (s *stage) dial(_ context.Context, to *cav1.Manager) (*grpc.ClientConn, error) {
	i := int(to.GetAddress()[0] - 'a')
	return grpc.NewClient("passthrough:///"+to.GetAddress(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			m := s.managers[i]
			m.mu.Lock()
			dark, lis := m.dark, m.lis
			m.mu.Unlock()
			if dark {
				<-ctx.Done()
				return nil, errors.New("no route to host")
			}
			return lis.DialContext(ctx)
		}))
}

// current returns the manager the client is connected to.
func (s *stage) current(t *testing.T) *manager {
	t.Helper()
	synctest.Wait()
	to := s.Status().Manager
	if to == nil {
		t.Fatal("no session is open")
	}
	return s.managers[to.GetAddress()[0]-'a']
}

// within fails unless ok holds before d has passed; it returns how long it took.
func within(t *testing.T, d time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		if ok() {
			return time.Since(began)
		}
		if time.Since(began) > d {
			t.Fatalf("%s: not within %v", what, d)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
