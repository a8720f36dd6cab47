package backup

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	backupv1 "github.com/skep-project/skep/proto/skep/backup/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A Preview is what would come up from a backup, for people.
type Preview struct {
	Manifest *backupv1.Manifest
	// Name is the swarm's.
	Name     string
	Nodes    []NodeView
	Services []ServiceView
	// WorkerToken and ManagerToken say whether there is a standing one.
	WorkerToken, ManagerToken bool
	// RootNotAfter is when the authority's root ends; zero if it is not readable.
	RootNotAfter time.Time
}

// A NodeView is one node of a backup.
type NodeView struct {
	ID       []byte
	Hostname string
	// Manager is the address of its manager; empty for a worker.
	Manager      string
	Availability modelv1.Availability
	// Tasks counts those that were to run on it.
	Tasks int
}

// A ServiceView is one service of a backup.
type ServiceView struct {
	ID   []byte
	Name string
	// Replicas is how many there are to be; 0 and Global for one on each node.
	Replicas uint64
	Global   bool
	Image    string
	// Running counts the tasks that ran.
	Running int
}

// Preview says what would come up.
func (im *Image) Preview() Preview {
	snap := im.Store.Snapshot()
	c := snap.Cluster()
	p := Preview{
		Manifest: im.Manifest, Name: c.GetSpec().GetName(),
		WorkerToken: len(c.GetWorkerToken()) > 0, ManagerToken: len(c.GetManagerToken()) > 0,
	}
	if ders := c.GetRoot().GetCertificates(); len(ders) > 0 {
		if root, err := x509.ParseCertificate(ders[0]); err == nil {
			p.RootNotAfter = root.NotAfter
		}
	}
	onNode, running := make(map[string]int), make(map[string]int)
	for t := range snap.Tasks() {
		if t.Desired == modelv1.TaskState_TASK_STATE_RUNNING && !t.Terminal() {
			onNode[string(t.Node.Bytes())]++
			if t.Observed == modelv1.TaskState_TASK_STATE_RUNNING {
				running[string(t.Service.Bytes())]++
			}
		}
	}
	for n := range snap.Nodes() {
		p.Nodes = append(p.Nodes, NodeView{
			ID: n.GetId(), Hostname: n.GetDescription().GetHostname(), Manager: snap.MemberByNode(asID(n.GetId())).GetAddress(),
			Availability: n.GetSpec().GetAvailability(), Tasks: onNode[string(n.GetId())],
		})
	}
	slices.SortFunc(p.Nodes, func(a, b NodeView) int {
		return cmp.Or(strings.Compare(a.Hostname, b.Hostname), bytes.Compare(a.ID, b.ID))
	})
	for v := range snap.Services() {
		p.Services = append(p.Services, ServiceView{
			ID: v.GetId(), Name: v.GetSpec().GetName(), Replicas: v.GetSpec().GetReplicated().GetReplicas(), Global: v.GetSpec().GetGlobal() != nil,
			Image: snap.Revision(asID(v.GetId()), max(v.GetCurrent(), v.GetTarget())).GetTemplate().GetContainer().GetImage(), Running: running[string(v.GetId())],
		})
	}
	slices.SortFunc(p.Services, func(a, b ServiceView) int { return strings.Compare(a.Name, b.Name) })
	return p
}
