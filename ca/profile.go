package ca

import (
	"fmt"
	"time"

	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// WorkerLifetime is how long a worker's leaf lives unless the cluster says
	// otherwise.
	WorkerLifetime = 90 * 24 * time.Hour
	// ManagerLifetime is the same for a manager's, whatever the workers' (R15).
	ManagerLifetime = 7 * 24 * time.Hour
	// MinLifetime is the shortest life that any leaf has.
	MinLifetime = time.Minute
	// MinExpiry is the shortest life of nodes' leaves that a cluster may be set to.
	// Below it the minute that a superseded leaf still opens connections, and the
	// clocks of its hosts, would be no small part of it.
	MinExpiry = 10 * time.Minute
	// RootLifetime is how long a root lives.
	RootLifetime = 20 * 365 * 24 * time.Hour
	maxBackdate  = time.Hour
)

// A Profile is all that a leaf says, but for its key, serial and times.
type Profile struct {
	Cluster    id.ID
	Node       id.ID
	Role       modelv1.Role
	Generation uint64
	// Lifetime is from issue to expiry.
	Lifetime time.Duration
}

// Check returns an error if no certificate may be made of the profile.
func (p Profile) Check() error {
	switch {
	case p.Cluster.IsZero() || p.Node.IsZero():
		return fmt.Errorf("certificate profile: cluster %s, node %s: both are needed", p.Cluster, p.Node)
	case p.Role != modelv1.Role_ROLE_WORKER && p.Role != modelv1.Role_ROLE_MANAGER:
		return fmt.Errorf("certificate profile: role %v", p.Role)
	case p.Generation == 0:
		return fmt.Errorf("certificate profile: generation 0")
	case p.Lifetime < MinLifetime:
		return fmt.Errorf("certificate profile: lifetime %v is below %v", p.Lifetime, MinLifetime)
	}
	return nil
}

// Names returns the DNS names of the leaf: the node's own, and the managers'
// for a manager and never for a worker (R15).
func (p Profile) Names() []string {
	if p.Role == modelv1.Role_ROLE_MANAGER {
		return []string{ManagerName(p.Cluster), NodeName(p.Cluster, p.Node)}
	}
	return []string{NodeName(p.Cluster, p.Node)}
}

// Lifetime returns how long a leaf of the role lives under spec, which may be
// nil.
func Lifetime(role modelv1.Role, spec *modelv1.ClusterSpec) time.Duration {
	if role == modelv1.Role_ROLE_MANAGER {
		if d := time.Duration(spec.GetManagerCertExpiry()); d > 0 {
			return max(d, MinLifetime)
		}
		return ManagerLifetime
	}
	if d := time.Duration(spec.GetCertExpiry()); d > 0 {
		return max(d, MinLifetime)
	}
	return WorkerLifetime
}

// Backdate returns how far before its issue a leaf begins to be valid, so that
// a clock somewhat behind takes it (R21).
func Backdate(lifetime time.Duration) time.Duration { return min(maxBackdate, lifetime/10) }

// RenewAt returns the moment a node asks for its next certificate: a point from
// 50 to 80 hundredths of the time between issued and notAfter, so that nodes
// enrolled together do not renew together. issued is when it was signed, not
// its backdated beginning (R21). roll is in [0, 1) and notAfter is after issued.
// A result in the past means "now".
func RenewAt(issued, notAfter time.Time, roll float64) time.Time {
	life := notAfter.Sub(issued)
	return issued.Add(time.Duration((0.5 + 0.3*roll) * float64(life)))
}

// RenewWindow returns between which moments RenewAt draws. A certificate that is
// not renewed at the end of it is late: its node reaches no manager, or is refused.
func RenewWindow(issued, notAfter time.Time) (from, to time.Time) {
	return RenewAt(issued, notAfter, 0), RenewAt(issued, notAfter, 1)
}

// RenewPause is the time that must pass between two renewals of one node: 5 %
// of the life (R21).
func RenewPause(issued, notAfter time.Time) time.Duration { return notAfter.Sub(issued) / 20 }
