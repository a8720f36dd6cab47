package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func infoCommand(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:  "info",
		Usage: "show this node and its swarm",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "json or a `TEMPLATE`"},
			conn.StaleFlag(), conn.TimeoutFlag(conn.ForAnswer),
		},
		Action: conn.With(s, func(ctx context.Context, c *cli.Context, api *conn.Conn) error {
			i, err := look(ctx, api)
			if err != nil {
				return err
			}
			if format := c.String("format"); format != "" {
				return show.One(s.Out, format, i)
			}
			if err := lines(s.Out, strings.TrimRight(i.text(), "\n")); err != nil {
				return err
			}
			if i.Swarm.Managers == 2 {
				s.Warn("this swarm has two managers: if either is lost nobody can control it; " +
					"add a third, or demote one")
			}
			return nil
		}),
	}
}

// look asks the daemon of this host, or the manager one uses from elsewhere.
func look(ctx context.Context, api *conn.Conn) (info, error) {
	p, err := conn.Elsewhere(ctx, api)
	switch {
	case err != nil:
		return info{}, err
	case p != nil:
		return afar(ctx, api, p)
	}
	local, err := conn.Ask(ctx, api, localv1.LocalClient.Info, &localv1.InfoRequest{})
	if err != nil {
		return info{}, err
	}
	cluster, err := clusterOf(ctx, api, local)
	if err != nil {
		// The rest is worth showing all the same, and the daemon may know why.
		local.Error = strings.TrimSuffix(err.Error()+"; "+local.GetError(), "; ")
	}
	return newInfo(local, cluster), nil
}

// clusterOf asks for what only managers know. One that does not hear the quorum
// would have to wait for a leader: the last it knew is told at once, with an error
// that says so.
func clusterOf(ctx context.Context, api *conn.Conn, local *localv1.InfoResponse) (*controlv1.GetClusterResponse, error) {
	if local.GetState() != localv1.State_STATE_ACTIVE || local.GetRole() != modelv1.Role_ROLE_MANAGER {
		return nil, nil
	}
	if !local.GetOutOfContact() {
		return conn.Read(ctx, api, controlv1.ControlClient.GetCluster, &controlv1.GetClusterRequest{})
	}
	last, err := conn.Read(rpc.Stale(ctx), api, controlv1.ControlClient.GetCluster, &controlv1.GetClusterRequest{})
	if err != nil {
		return nil, err
	}
	return last, rpc.Errorf(errdefs.ErrUnavailable, "%s", rpc.NoLeader)
}

// info is what "ctl info" knows. The names are Docker's; the set only grows.
type info struct {
	Name            string
	ServerVersion   string
	OperatingSystem string
	Architecture    string
	NCPU            string
	MemTotal        int64
	Runtime         string
	// StateDir and Containers are told at the node's own socket only.
	StateDir   string  `json:",omitempty"`
	Containers *uint32 `json:",omitempty"`
	// FIPS: the daemon says that it is in FIPS 140-3 mode. FIPSModule is told at the
	// node's own socket only.
	FIPS       bool
	FIPSModule string `json:",omitempty"`
	// Context is there if a manager was asked over the network.
	Context *contextInfo `json:",omitempty"`
	Swarm   swarmInfo
}

type swarmInfo struct {
	LocalNodeState string
	NodeID         string `json:",omitempty"`
	Error          string `json:",omitempty"`
	// PendingFingerprint is that of the key of a node that waits to be accepted,
	// and PendingUntil until when the managers wait for it.
	PendingFingerprint  string     `json:",omitempty"`
	PendingUntil        *time.Time `json:",omitempty"`
	ControlAvailable    bool       // it is a manager
	NodeAddr            string     `json:",omitempty"`
	RemoteManagers      []string   `json:",omitempty"`
	UnreachableManagers []string   `json:",omitempty"`
	// UnreachableSince belongs to UnreachableManagers, in the same order; zero is
	// not known.
	UnreachableSince []time.Time `json:",omitempty"`
	// KeysAtRest is what this manager's own keys are worth on its disk.
	KeysAtRest         string `json:",omitempty"`
	OutOfContact       bool   `json:",omitempty"`
	CertificateExpires *time.Time
	CertificateRenews  *time.Time
	// Clock says how far this host's is off the swarm's; empty if it is not.
	Clock         string `json:",omitempty"`
	HeartbeatTick int64  `json:",omitempty"`
	ElectionTick  int64  `json:",omitempty"`
	Nodes         uint32 `json:",omitempty"`
	Managers      uint32 `json:",omitempty"`
	// Leader and States, how many nodes are in which state, are of a manager that
	// was asked over the network.
	Leader  string            `json:",omitempty"`
	States  map[string]uint32 `json:",omitempty"`
	Cluster *clusterInfo      `json:",omitempty"`
	known   bool
}

type clusterInfo struct {
	ID string
	// FIPS: it asks for FIPS 140-3 mode of each node.
	FIPS             bool
	TaskHistory      int64
	SnapshotInterval uint64
	OldSnapshots     uint64
	HeartbeatPeriod  time.Duration
	Lease            time.Duration
	MassLossGuard    bool
	NodeCertExpiry   time.Duration
	// ManagerCertExpiry is that of managers, which node certificates are not.
	ManagerCertExpiry time.Duration
	// ExpiredRenewal is auto, approve or never, and ExpiredGrace how long it holds.
	ExpiredRenewal     string
	ExpiredGrace       time.Duration
	DeadManagerRemoval time.Duration `json:",omitempty"`
	JoinTokens         joinTokens
	// Autolock: managers start locked. DataKeyRotation says why the data key is
	// being replaced and how far that is; empty while it is not.
	Autolock        bool
	DataKey         uint32
	DataKeyRotation string `json:",omitempty"`
	// RootRotation: the root is being rotated.
	RootRotation bool `json:",omitempty"`
	// ExternalCAs are where the root signs, if its key is nowhere in the swarm.
	ExternalCAs []externalCA `json:",omitempty"`
}

// externalCA is how one external CA is.
type externalCA struct {
	URL string
	// Failing says whether it did not sign when it was asked last, since Since, and
	// Error why. Since is absent until it was asked.
	Failing      bool
	Error        string     `json:",omitempty"`
	Since        *time.Time `json:",omitempty"`
	LastAnswered *time.Time `json:",omitempty"`
}

func externalCAs(r *modelv1.RootCA) (out []externalCA) {
	for _, at := range r.GetExternal() {
		e := externalCA{URL: at.GetUrl()}
		for _, h := range r.GetExternalHealth() {
			if h.GetUrl() == at.GetUrl() {
				e.Failing, e.Error, e.Since, e.LastAnswered = h.GetFailing(), h.GetError(), show.Time(h.GetSince()), show.Time(h.GetAnsweredAt())
			}
		}
		out = append(out, e)
	}
	return out
}

// text says in words how it is.
func (e externalCA) text() string {
	at := func(t *time.Time) string { return t.Format(time.RFC3339) }
	switch {
	case e.Since == nil:
		return "not asked yet"
	case !e.Failing:
		return "answers since " + at(e.Since)
	case e.LastAnswered == nil:
		return fmt.Sprintf("fails since %s and never answered: %s", at(e.Since), e.Error)
	}
	return fmt.Sprintf("fails since %s, answered last at %s: %s", at(e.Since), at(e.LastAnswered), e.Error)
}

// joinTokens is what nodes join with.
type joinTokens struct {
	// Standing: there are tokens that let any number of nodes in. RotationInterval
	// is 0 if they are good until somebody rotates them; else NextRotation is when
	// these end, and PreviousUntil until when those before them still work.
	Standing         bool
	RotationInterval time.Duration
	NextRotation     *time.Time `json:",omitempty"`
	PreviousUntil    *time.Time `json:",omitempty"`
	// Made is how many made for certain nodes are not over; Pending how many nodes
	// that came with one wait to be accepted.
	Made    uint32
	Pending uint32
}

func newInfo(l *localv1.InfoResponse, g *controlv1.GetClusterResponse) info {
	d := l.GetDescription()
	i := info{
		Name: l.GetHostname(), ServerVersion: l.GetVersion(), OperatingSystem: d.GetOs(), Architecture: d.GetArchitecture(),
		NCPU: show.CPUs(d.GetResources().GetNanoCpus()), MemTotal: d.GetResources().GetMemoryBytes(),
		FIPS: l.GetFips(), FIPSModule: l.GetFipsModule(),
		Runtime: l.GetRuntime(), StateDir: l.GetStateDir(), Containers: new(l.GetRunning()),
		Swarm: swarmInfo{
			LocalNodeState:   strings.ToLower(strings.TrimPrefix(l.GetState().String(), "STATE_")),
			NodeID:           show.ID(l.GetNode()),
			Error:            l.GetError(),
			ControlAvailable: l.GetRole() == modelv1.Role_ROLE_MANAGER,
			NodeAddr:         l.GetAddress(), RemoteManagers: l.GetManagerAddresses(),
			UnreachableManagers: l.GetUnreachableManagers(), OutOfContact: l.GetOutOfContact(),
			CertificateExpires: show.Time(l.GetCertNotAfter()), CertificateRenews: show.Time(l.GetCertRenewAt()),
		},
	}
	if key, err := ca.DigestFromBytes(l.GetPendingKey()); err == nil {
		i.Swarm.PendingFingerprint, i.Swarm.PendingUntil = key.Fingerprint(), show.Time(l.GetPendingUntil())
	}
	i.Swarm.KeysAtRest, i.Swarm.Clock = keysAtRest(l), show.Clock(l.GetClockAhead(), l.GetClockBy())
	for _, ns := range l.GetUnreachableSince() {
		i.Swarm.UnreachableSince = append(i.Swarm.UnreachableSince, time.Unix(0, ns).UTC())
	}
	if tick := l.GetRaftTick(); tick > 0 {
		i.Swarm.HeartbeatTick, i.Swarm.ElectionTick = l.GetRaftHeartbeat()/tick, l.GetRaftElection()/tick
	}
	if id := show.ID(l.GetCluster()); id != "" && i.Swarm.ControlAvailable {
		i.Swarm.Cluster = &clusterInfo{ID: id}
	}
	if g != nil {
		i.Swarm.learn(g)
	}
	return i
}

// learn fills in what only managers know.
func (w *swarmInfo) learn(g *controlv1.GetClusterResponse) {
	w.Nodes, w.Managers, w.known = g.GetNodes(), g.GetManagers(), true
	w.Cluster = newClusterInfo(g.GetCluster())
	w.Cluster.JoinTokens = newJoinTokens(g)
	if len(g.GetManagerAddresses()) > 0 {
		w.RemoteManagers = g.GetManagerAddresses()
	}
}

// newClusterInfo fills in the documented defaults.
func newClusterInfo(c *modelv1.Cluster) *clusterInfo {
	s := c.GetSpec()
	return &clusterInfo{
		ID:               show.ID(c.GetId()),
		FIPS:             c.GetFips(),
		TaskHistory:      or(s.GetTaskHistory(), 5),
		SnapshotInterval: or(s.GetSnapshotInterval(), 10000),
		OldSnapshots:     s.GetOldSnapshots(),
		HeartbeatPeriod:  time.Duration(or(s.GetHeartbeatPeriod(), int64(2*time.Second))),
		Lease:            time.Duration(or(s.GetLease(), int64(10*time.Second))),
		MassLossGuard:    !s.GetMassExpiryGuardOff(),
		NodeCertExpiry:   time.Duration(or(s.GetCertExpiry(), int64(90*24*time.Hour))),

		ManagerCertExpiry:  time.Duration(or(s.GetManagerCertExpiry(), int64(7*24*time.Hour))),
		ExpiredRenewal:     expiredRenewal(s),
		ExpiredGrace:       time.Duration(or(s.GetExpiredGrace(), int64(30*24*time.Hour))),
		DeadManagerRemoval: time.Duration(s.GetDeadManagerRemoval()),
		Autolock:           s.GetAutolock(), DataKey: max(1, c.GetDataKey().GetActive()), DataKeyRotation: rotation(c),
		RootRotation: c.GetRoot().GetRotation() != nil, ExternalCAs: externalCAs(c.GetRoot()),
	}
}

func expiredRenewal(s *modelv1.ClusterSpec) string {
	mode := or(s.GetExpiredRenewal(), modelv1.ExpiredRenewal_EXPIRED_RENEWAL_AUTO)
	return strings.ToLower(strings.TrimPrefix(mode.String(), "EXPIRED_RENEWAL_"))
}

func newJoinTokens(g *controlv1.GetClusterResponse) joinTokens {
	c := g.GetCluster()
	j := joinTokens{
		Standing: !c.GetSpec().GetNoStandingTokens(), Made: g.GetActiveTokens(), Pending: g.GetPendingNodes(),
		PreviousUntil: show.Time(c.GetPreviousUntil()),
	}
	if every := c.GetSpec().GetTokenRotation(); every > 0 && j.Standing {
		j.RotationInterval = time.Duration(every)
		if c.GetTokensRotatedAt() > 0 {
			j.NextRotation = show.Time(c.GetTokensRotatedAt() + every)
		}
	}
	return j
}

// expired says in words how a node comes back whose certificate has ended.
func (c clusterInfo) expired() string {
	switch c.ExpiredRenewal {
	case "never":
		return "never: nodes join again"
	case "approve":
		return "for " + show.Age(c.ExpiredGrace) + ", when an operator accepts the node"
	}
	return "for " + show.Age(c.ExpiredGrace)
}

// standing says in words what there is of standing tokens.
func (j joinTokens) standing() string {
	switch {
	case !j.Standing:
		return "none"
	case j.RotationInterval == 0:
		return "work until they are rotated by hand"
	}
	text := "rotated every " + show.Age(j.RotationInterval)
	if j.NextRotation != nil {
		text += ", next at " + j.NextRotation.Format(time.RFC3339)
	}
	if j.PreviousUntil != nil {
		text += "; the former ones work until " + j.PreviousUntil.Format(time.RFC3339)
	}
	return text
}

func or[T comparable](v, fallback T) T {
	var zero T
	if v == zero {
		return fallback
	}
	return v
}

// text is the form people read; the part below "Swarm:" is laid out as Docker's.
func (i info) text() string {
	var b strings.Builder
	field := func(depth int, name string, value any) {
		if text := fmt.Sprint(value); text != "" {
			fmt.Fprintf(&b, "%s%s: %s\n", strings.Repeat(" ", depth), name, text)
		}
	}
	if c := i.Context; c != nil {
		field(0, "Context", c.Name)
		field(0, "User", c.User+" ("+c.Role+") until "+c.Expires.Format(time.RFC3339))
		field(0, "Manager", c.Host)
	}
	field(0, "Name", i.Name)
	field(0, "Server Version", i.ServerVersion)
	field(0, "Runtime", i.Runtime)
	field(0, "FIPS 140-3", show.FIPS(i.FIPS, i.FIPSModule))
	field(0, "State Directory", i.StateDir)
	field(0, "Operating System", i.OperatingSystem)
	field(0, "Architecture", i.Architecture)
	if i.MemTotal > 0 {
		field(0, "CPUs", i.NCPU)
		field(0, "Total Memory", show.Bytes(i.MemTotal))
	}
	if i.Containers != nil {
		field(0, "Containers", *i.Containers)
	}
	field(0, "Swarm", i.Swarm.LocalNodeState)
	i.Swarm.text(&b, field)
	if i.Context != nil {
		field(0, "Not Known From Here", onNodeOnly)
	}
	return b.String()
}

func (w swarmInfo) text(b *strings.Builder, field func(depth int, name string, value any)) {
	field(1, "NodeID", w.NodeID)
	field(1, "Error", w.Error)
	if w.Clock != "" {
		field(1, "Clock", w.Clock+"; "+rpc.ClockHint)
	}
	if w.PendingFingerprint != "" {
		field(1, "Waits With Key", w.PendingFingerprint)
		if w.PendingUntil != nil {
			field(1, "Waits Until", w.PendingUntil.Format(time.RFC3339))
		}
		return
	}
	if w.LocalNodeState == "inactive" {
		return
	}
	field(1, "Is Manager", w.ControlAvailable)
	if w.Cluster != nil {
		field(1, "ClusterID", w.Cluster.ID)
	}
	if w.known {
		w.clusterText(b, field)
	}
	if w.OutOfContact {
		field(1, "In Contact With The Quorum", false)
	}
	field(1, "Keys At Rest", w.KeysAtRest)
	field(1, "Node Address", w.NodeAddr)
	list(b, "Manager Addresses", w.RemoteManagers)
	list(b, "Unreachable Managers", w.unreachable())
}

// unreachable says who is missing, and since when.
func (w swarmInfo) unreachable() []string {
	out := slices.Clone(w.UnreachableManagers)
	for i, since := range w.UnreachableSince[:min(len(out), len(w.UnreachableSince))] {
		if !since.IsZero() {
			out[i] += " since " + show.When(since.UnixNano())
		}
	}
	return out
}

func (w swarmInfo) clusterText(b *strings.Builder, field func(depth int, name string, value any)) {
	c := w.Cluster
	if c.FIPS {
		field(1, "FIPS 140-3", "asked of each node")
	}
	field(1, "Managers", w.Managers)
	field(2, "Leader", w.Leader)
	field(1, "Nodes", w.Nodes)
	for _, state := range w.states() {
		fmt.Fprintf(b, "  %s\n", state)
	}
	b.WriteString(" Orchestration:\n")
	field(2, "Task History Retention Limit", c.TaskHistory)
	b.WriteString(" Raft:\n")
	field(2, "Snapshot Interval", c.SnapshotInterval)
	field(2, "Number of Old Snapshots to Retain", c.OldSnapshots)
	if w.HeartbeatTick > 0 {
		field(2, "Heartbeat Tick", w.HeartbeatTick)
	}
	if w.ElectionTick > 0 {
		field(2, "Election Tick", w.ElectionTick)
	}
	if c.DeadManagerRemoval > 0 {
		field(2, "Dead Manager Removal", c.DeadManagerRemoval)
	}
	b.WriteString(" Dispatcher:\n")
	field(2, "Heartbeat Period", show.Age(c.HeartbeatPeriod))
	field(2, "Lease", c.Lease)
	b.WriteString(" CA Configuration:\n")
	field(2, "Expiry Duration", show.Age(c.NodeCertExpiry))
	field(2, "Expiry Duration of Managers", show.Age(c.ManagerCertExpiry))
	field(2, "Renewal After Expiry", c.expired())
	if len(c.ExternalCAs) > 0 {
		b.WriteString("  External CAs:\n")
	}
	for _, e := range c.ExternalCAs {
		field(3, "cfssl", e.URL+" ("+e.text()+")")
	}
	b.WriteString(" Join Tokens:\n")
	field(2, "Standing Tokens", c.JoinTokens.standing())
	field(2, "Tokens Made For Nodes", c.JoinTokens.Made)
	field(2, "Nodes To Be Accepted", c.JoinTokens.Pending)
	field(1, "Autolock Managers", c.Autolock)
	field(1, "Data Key Rotation", c.DataKeyRotation)
	field(1, "Root Rotation In Progress", c.RootRotation)
}

func list(b *strings.Builder, name string, items []string) {
	if len(items) == 0 {
		return
	}
	fmt.Fprintf(b, " %s:\n", name)
	for _, item := range items {
		fmt.Fprintf(b, "  %s\n", item)
	}
}
