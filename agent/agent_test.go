package agent

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/exec/exectest"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/taskstate"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// manager gives every session one complete set, confirms every beat and
// commits every report.
type manager struct {
	dispatchv1.UnimplementedDispatchServer
	cluster id.ID
	lis     *bufconn.Listener

	mu       sync.Mutex
	set      *dispatchv1.Assignments
	states   map[id.ID]modelv1.TaskState
	opens    []*dispatchv1.Open
	host     *modelv1.NodeDescription
	farewell modelv1.Farewell
}

func (m *manager) Session(s dispatchv1.Dispatch_SessionServer) error {
	for first := true; ; first = false {
		req, err := s.Recv()
		if err != nil {
			return err
		}
		r := m.hear(req)
		if first {
			r.Welcome = &dispatchv1.Welcome{Hello: &rpcv1.Hello{Cluster: m.cluster.Bytes()}, Lease: int64(10 * time.Second)}
			r.Assignments = m.set
		}
		if err := s.Send(r); err != nil || req.GetFarewell() != 0 {
			return err
		}
	}
}

func (m *manager) hear(req *dispatchv1.SessionRequest) *dispatchv1.SessionResponse {
	m.mu.Lock()
	defer m.mu.Unlock()
	if req.GetOpen() != nil {
		m.opens = append(m.opens, req.GetOpen())
	}
	if req.GetDescription() != nil {
		m.host = req.GetDescription()
	}
	for _, r := range req.GetReports().GetReports() {
		t, _ := id.FromBytes(r.GetTask())
		m.states[t] = r.GetStatus().GetState()
	}
	m.farewell = max(m.farewell, req.GetFarewell())
	return &dispatchv1.SessionResponse{Beat: req.GetBeat(), Reports: req.GetReports().GetSequence()}
}

func (m *manager) state(t id.ID) modelv1.TaskState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.states[t]
}

// run runs an agent until the function it returns is called.
func run(t *testing.T, cfg Config) (*Agent, func()) {
	t.Helper()
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	synctest.Wait()
	return a, func() {
		stop()
		if err := <-ran; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestAnAgentRunsWhatItIsToldAndComesBack(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "agent")
	synctest.Test(t, func(t *testing.T) {
		m := &manager{cluster: id.New(), lis: bufconn.Listen(1 << 20), states: make(map[id.ID]modelv1.TaskState)}
		server := grpc.NewServer()
		dispatchv1.RegisterDispatchServer(server, m)
		go server.Serve(m.lis)
		defer server.Stop()

		node, service, task, host := id.New(), id.New(), id.New(), exectest.NewHost()
		m.set = &dispatchv1.Assignments{
			History: id.New().Bytes(), Index: 9, Complete: true,
			Put: []*dispatchv1.Assignment{{
				Task: task.Bytes(), Service: service.Bytes(), Revision: 1, Slot: 1, CreatedIndex: 8, Desired: taskstate.Running,
			}},
			Templates: []*dispatchv1.Template{{
				Service: service.Bytes(), Revision: 1, ServiceName: "web",
				Template: &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "web"}},
			}},
		}
		cfg := Config{
			Cluster: m.cluster, Node: node, Runtime: host.Runtime(m.cluster, node), StateDir: dir,
			KEK: sealed.NewSecret(slices.Repeat([]byte{3}, 32)), Hello: &rpcv1.Hello{Version: "test"},
			Managers:    &cav1.ManagerList{Index: 1, History: m.set.History, Managers: []*cav1.Manager{{Address: "a"}}},
			Description: &modelv1.NodeDescription{Hostname: "h1"},
			Dial: func(context.Context, *cav1.Manager) (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///a", grpc.WithTransportCredentials(insecure.NewCredentials()),
					grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return m.lis.DialContext(ctx) }))
			},
			Log: slog.New(slog.DiscardHandler),
		}
		a, stop := run(t, cfg)
		if got := m.state(task); got != taskstate.Running {
			t.Fatalf("the manager heard %s, want running", taskstate.Name(got))
		}
		if s := a.Status(); s.Running != 1 || s.Index != 9 || s.Session.Manager.GetAddress() != "a" || !s.Session.Confirmed {
			t.Errorf("status %+v, want one task, index 9 and a confirmed session", s)
		}
		if m.host.GetHostname() != "h1" || m.host.GetRuntime() != "exectest" {
			t.Errorf("the manager heard of host %v", m.host)
		}
		if err := a.Farewell(t.Context(), modelv1.Farewell_FAREWELL_RESTARTING); err != nil {
			t.Error(err)
		}
		stop()
		if m.farewell != modelv1.Farewell_FAREWELL_RESTARTING || len(host.Running()) != 1 {
			t.Errorf("farewell %v with %v running, want restarting, and the task", m.farewell, host.Running())
		}

		cfg.Managers = nil // the journal knows them
		_, stop = run(t, cfg)
		defer stop()
		if got := m.opens[1]; got.GetIndex() != 9 || got.GetSession() <= m.opens[0].GetSession() || host.Starts(task) != 1 {
			t.Errorf("came back with %v after %d starts, want index 9, a later session and one start", got, host.Starts(task))
		}
		host.Exit(task, exec.Exit{Code: 1})
		synctest.Wait()
		if got := m.state(task); got != taskstate.Failed {
			t.Errorf("the manager heard %s, want failed", taskstate.Name(got))
		}
	})
}

func TestAllFaultsOfAConfigurationAreReportedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := New(Config{})
	for _, what := range []string{"cluster's id", "node's id", "runtime", "state directory", "key-encryption", "dial", "hello", "log"} {
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%v: does not name the missing %s", err, what)
		}
	}
}

func TestBootID(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "boot_id")
	for text, ok := range map[string]bool{
		"8f2b6c1e-3d49-4c1b-9d0e-1f2a3b4c5d6e\n": true, "": false, "8f2b6c1e": false, "zz2b6c1e-3d49-4c1b-9d0e-1f2a3b4c5d6e": false,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := BootID(path); (err == nil) != ok || ok && len(got) != 16 {
			t.Errorf("%q: %x, %v; want it taken: %v", text, got, err, ok)
		}
	}
}
