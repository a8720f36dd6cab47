package metrics

import (
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/skep-project/skep/agent"
	"github.com/skep-project/skep/agent/containerd"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager"
	"github.com/skep-project/skep/manager/store"
	"github.com/skep-project/skep/manager/tally"
)

// full is a look at a manager that has everything.
func full() Facts {
	var d meter.Durations
	d.Observe(3 * time.Millisecond)
	var counts tally.Tally
	m := &manager.Meters{Tally: counts.Read(), Census: tally.Count(store.New().Snapshot(), time.Now())}
	m.Raft.Free, m.Raft.Status.Leading, m.Raft.Fsync = 1<<30, true, d.Read()
	m.Census.Soonest = time.Unix(2e9, 0)
	return Facts{
		State: "active", NotAfter: time.Unix(2e9, 0), RenewAt: time.Unix(1e9, 0),
		Agent: &agent.Meters{}, Runtime: &containerd.Meters{}, Manager: m,
		RPC: rpc.Meters{Methods: []rpc.MethodMeters{{
			Method: "/skep.ca.v1.Authority/Renew", Codes: map[string]uint64{"OK": 1}, Took: d.Read(),
		}}},
	}
}

func TestFiguresAreNamedAsIsTheCustom(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(newRegistry(full))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "skep_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

func TestEveryFigureIsShownWhenThereIsSomethingToShow(t *testing.T) {
	t.Parallel()
	shown, err := newRegistry(full).Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range shown {
		names[f.GetName()] = true
	}
	quoted := regexp.MustCompile(`fqName: "(skep_[a-z_]+)"`)
	for _, f := range figures {
		name := quoted.FindStringSubmatch(f.desc.String())
		if name == nil || !names[name[1]] {
			t.Errorf("%v is not shown", f.desc)
		}
	}
}

func TestANodeInNoSwarmShowsWhatItHas(t *testing.T) {
	t.Parallel()
	shown, err := newRegistry(func() Facts { return Facts{State: "inactive"} }).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range shown {
		for _, of := range []string{"skep_raft_", "skep_agent_", "skep_cluster_", "skep_node_certificate"} {
			if strings.HasPrefix(f.GetName(), of) {
				t.Errorf("%s is shown", f.GetName())
			}
		}
	}
}

func TestThereIsNothingButThreePages(t *testing.T) {
	t.Parallel()
	pages := New(Config{Look: full, Condition: func() Condition { return Condition{State: "active", Session: true} }}).pages()
	for _, tt := range []struct {
		method, path string
		code         int
	}{
		{"GET", "/metrics", 200},
		{"GET", "/healthz", 200},
		{"GET", "/readyz", 200},
		{"HEAD", "/readyz", 200},
		{"POST", "/metrics", 405},
		{"GET", "/", 404},
		{"GET", "/metrics/", 404},
		{"GET", "/debug/pprof/", 404},
	} {
		w := httptest.NewRecorder()
		pages.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), tt.method, tt.path, nil))
		if w.Code != tt.code {
			t.Errorf("%s %s = %d, want %d", tt.method, tt.path, w.Code, tt.code)
		}
	}
}
