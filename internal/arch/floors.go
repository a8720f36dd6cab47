// Package arch holds the laws of the house, as lists; its tests keep them.
//
// A build that fails here is first answered by moving code. A line of this
// file changes with a decision that is written down in docs/decisions.
package arch

// module is the name every import of the house begins with.
const module = "github.com/skep-project/skep"

// floors is the house from the ground up. Each word is a room: a package and
// what lies below it that is not a room of its own. A room imports rooms on
// lower lines, and itself; neighbours on one line do not know each other,
// except as doors says.
const floors = `
proto internal/version
internal/id internal/durable internal/invariant internal/meter
internal/sealed internal/taskstate
ca agent/exec manager/audit
internal/rpc
ca/issue ca/external ca/keystore ca/authority ca/client manager/store manager/consensus manager/orchestrate manager/schedule manager/allocate manager/reap manager/reconcile manager/control manager/dispatch manager/membership manager/enrol manager/witness manager/rekey manager/rotation manager/condemn manager/tally manager/backup manager/logbroker agent/task agent/worker agent/session agent/containerd
manager agent
internal/metrics
internal/node
cli internal/lab internal/arch
cmd integration
`

// doors are the few ways between neighbours: the room on the left may import
// those on the right.
var doors = map[string][]string{
	// Those whose work is the replicated truth speak its words.
	"manager/backup":     {"manager/store"},
	"manager/condemn":    {"manager/store"},
	"manager/control":    {"manager/store"},
	"manager/dispatch":   {"manager/store"},
	"manager/enrol":      {"manager/store", "ca/authority", "ca/issue"},
	"manager/membership": {"manager/store"},
	"manager/reap":       {"manager/store"},
	"manager/rekey":      {"manager/store"},
	"manager/rotation":   {"manager/store"},
	"manager/tally":      {"manager/store"},
	// The one loop runs the deciders and commits what they say.
	"manager/reconcile": {"manager/store", "manager/orchestrate", "manager/schedule", "manager/allocate", "manager/reap"},
	// A worker leads tasks; the authority signs with the issuer.
	"agent/worker": {"agent/task"},
	"ca/authority": {"ca/issue"},
}

// pure are the packages that decide: no I/O, no clock, no lots, no store.
var pure = []string{"ca", "manager/audit", "manager/orchestrate", "manager/schedule", "manager/allocate"}

// impure are what a pure package does not import.
var impure = []string{
	"os", "net", "net/http", "io/fs", "io/ioutil", "os/exec", "os/signal", "syscall", "log", "log/slog",
	"google.golang.org/grpc", "golang.org/x/sys",
	module + "/manager/store", module + "/internal/durable", module + "/internal/rpc",
}

// owners are the libraries that one room keeps from all others. The simulator
// carries raft's messages between cores, so it knows their type. In ctl itself
// only cli/registry uses go-containerregistry; the others serve it to tests.
var owners = map[string]string{
	"filippo.io/age":                         "manager/backup",
	"github.com/anishathalye/porcupine":      "integration/soak",
	"github.com/cloudflare/cfssl":            "ca/issue",
	"github.com/containerd/containerd":       "agent/containerd integration/bench",
	"github.com/google/go-containerregistry": "cli/registry agent/containerd internal/lab",
	"github.com/tidwall/btree":               "manager/store",
	"github.com/urfave/cli":                  "cli",
	"github.com/vishvananda/netlink":         "internal/lab",
	"go.etcd.io/bbolt":                       "agent/worker",
	"go.etcd.io/etcd":                        "manager/consensus",
	"go.etcd.io/raft":                        "manager/consensus integration/sim",
	"github.com/prometheus/client_golang":    "internal/metrics",
}

// deterministic are files, as patterns, that every replica must run alike.
var deterministic = []string{"manager/store/apply*.go", "manager/audit/*.go"}

// ownContexts are the files outside main and tests that begin a context of
// their own, with the reason.
var ownContexts = map[string]string{
	"agent/containerd/shim.go": "a wait on a shim is bounded by the life of its connection",
}

// notSecrets are string fields whose names end like a secret's and are none.
var notSecrets = map[string]string{}

// badNames are names that say nothing of what a package owns.
var badNames = []string{"common", "util", "utils", "helper", "helpers", "types", "base", "misc"}
