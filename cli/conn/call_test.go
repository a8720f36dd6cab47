package conn_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/cli"
	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// run runs ctl with several hosts, and returns what it said and how it ended.
func run(t *testing.T, hosts []*clitest.Swarm, args ...string) (out, errs string, code int) {
	t.Helper()
	var list []string
	for _, s := range hosts {
		socket, stop, err := s.Listen()
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
		list = append(list, "unix://"+socket)
	}
	var o, e bytes.Buffer
	streams := say.Streams{Out: &o, Err: &e, In: strings.NewReader(""), Now: func() time.Time { return clitest.Epoch }, Poll: time.Millisecond}
	code = cli.Main(t.Context(), append([]string{"ctl", "--host", strings.Join(list, ",")}, args...), streams)
	return o.String(), e.String(), code
}

// refusing is a swarm whose next call of the method ends with err.
func refusing(method string, err ...error) *clitest.Swarm {
	s := clitest.Three()
	s.Fail[method] = err
	return s
}

var (
	noQuorum   = rpc.RefuseNoLeader([]string{"dev02", "dev03"}, 2, 1)
	notManager = rpc.RefuseNotManager(nil)
	gone       = rpc.Errorf(errdefs.ErrUnavailable, "the connection broke")
	unknown    = rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "the leader died"), "", &rpcv1.Unknown{})
)

func TestAnotherHostAnswersWhereOneCannot(t *testing.T) {
	t.Parallel()
	create := []string{"service", "create", "--detach", "--name", "web", "alpine"}
	for _, tt := range []struct {
		name   string
		method string
		err    error
		args   []string
	}{
		{"a read from one without a quorum", "ListNodes", noQuorum, []string{"node", "ls"}},
		{"a read from one that is no manager", "ListNodes", notManager, []string{"node", "ls"}},
		{"a read from one that went away", "ListNodes", gone, []string{"node", "ls"}},
		{"a change at one without a quorum", "CreateService", noQuorum, create},
		{"a change at one that is no manager", "CreateService", notManager, create},
		{"a change whose end is unknown", "CreateService", unknown, create},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a, b := refusing(tt.method, tt.err), clitest.Three()
			if _, errs, code := run(t, []*clitest.Swarm{a, b}, tt.args...); code != 0 {
				t.Fatalf("exit %d: %s", code, errs)
			}
			if !slices.Contains(b.Calls, tt.method) && !errors.Is(tt.err, unknown) {
				t.Errorf("the second host was asked %q, want %s", b.Calls, tt.method)
			}
		})
	}
}

// TestAReadWaitsForAnElection: for a moment no manager lets anybody in.
func TestAReadWaitsForAnElection(t *testing.T) {
	t.Parallel()
	alone := rpc.Refuse(rpc.Errorf(errdefs.ErrUnavailable, "this manager is out of contact with the other managers"), "ask another manager")
	a, b := refusing("ListNodes", alone, alone), refusing("ListNodes", alone, alone)
	if _, errs, code := run(t, []*clitest.Swarm{a, b}, "node", "ls"); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	a = refusing("ListNodes", slices.Repeat([]error{alone}, 1000)...)
	if _, errs, code := run(t, []*clitest.Swarm{a, a}, "node", "ls"); code != 1 || !strings.Contains(errs, "out of contact") {
		t.Errorf("nobody is ever let in: exit %d: %s", code, errs)
	}
}

func TestARefusalStandsIfEveryHostSaysIt(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		err  error
		says string
	}{
		"no quorum":   {noQuorum, "The swarm does not have a leader."},
		"no managers": {notManager, "this node is not a manager"},
	} {
		a, b := refusing("CreateService", tt.err), refusing("CreateService", tt.err)
		a.Fail["ListManagers"], b.Fail["ListManagers"] = []error{tt.err, tt.err}, []error{tt.err, tt.err}
		_, errs, code := run(t, []*clitest.Swarm{a, b}, "service", "create", "--detach", "--name", "web", "alpine")
		if code != say.Refused || !strings.Contains(errs, tt.says) {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
	}
}

func TestAWaitGoesOnAtAnotherHost(t *testing.T) {
	t.Parallel()
	for _, err := range []error{gone, noQuorum, notManager} {
		a := refusing("WatchService", err) // one swarm, by two of its managers
		_, errs, code := run(t, []*clitest.Swarm{a, a}, "service", "create", "--update-monitor", "1ms", "--name", "web", "alpine")
		if code != 0 || !strings.Contains(errs, "verify: Service converged") {
			t.Errorf("after %v: exit %d:\n%s", err, code, errs)
		}
	}
}
