package events

import (
	"bytes"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skep-project/skep/internal/id"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// swarmEntry is an entry about the swarm itself.
func (s *step) swarmEntry() Entry {
	c := s.after.Cluster()
	return Entry{
		Event:  &controlv1.Event{Type: TypeSwarm, Id: c.GetId(), Name: c.GetSpec().GetName()},
		Labels: c.GetSpec().GetLabels(),
	}
}

// swarm tells what became of the swarm. Of keys and tokens only that they are new.
func (s *step) swarm(old, c *modelv1.Cluster) {
	if old == nil {
		s.add(s.swarmEntry(), "create", "", nil)
		return
	}
	if !bytes.Equal(old.GetHistory(), c.GetHistory()) {
		s.add(s.swarmEntry(), "new-history", "a new cluster was made of one manager, or a backup was restored", nil)
	}
	if attributes := settings(old.GetSpec(), c.GetSpec()); len(attributes) > 0 {
		s.add(s.swarmEntry(), "update", "", attributes)
	}
	if !bytes.Equal(old.GetWorkerToken(), c.GetWorkerToken()) && len(c.GetWorkerToken()) > 0 {
		s.add(s.swarmEntry(), "token-rotated", "", map[string]string{"role": "worker"})
	}
	if !bytes.Equal(old.GetManagerToken(), c.GetManagerToken()) && len(c.GetManagerToken()) > 0 {
		s.add(s.swarmEntry(), "token-rotated", "", map[string]string{"role": "manager"})
	}
	s.root(old.GetRoot(), c.GetRoot())
	s.condemnation(old.GetCondemnation(), c)
}

// condemnation tells what became of managers that may be compromised.
func (s *step) condemnation(was *modelv1.Condemnation, c *modelv1.Cluster) {
	is := c.GetCondemnation()
	switch {
	case is != nil && len(is.GetNodes()) > len(was.GetNodes()):
		n := is.GetNodes()[len(is.GetNodes())-1]
		e := s.swarmEntry()
		if x, err := id.FromBytes(n.GetNode()); err == nil {
			e.Node = x
		}
		s.add(e, "condemn-start", "manager "+n.GetName()+" may be compromised: what it knows is replaced",
			map[string]string{"condemnation": hex.EncodeToString(is.GetId()), "node": n.GetName()})
	case is != nil && was.GetStep() != is.GetStep():
		s.add(s.swarmEntry(), "condemn-step", "", map[string]string{
			"condemnation": hex.EncodeToString(is.GetId()), "step": word(is.GetStep().String(), "CONDEMNATION_STEP_"),
		})
	case is == nil && was != nil:
		e := c.GetCondemned()
		s.add(s.swarmEntry(), "condemn-end", "", map[string]string{
			"condemnation": hex.EncodeToString(e.GetId()), "leftbehind": strconv.FormatUint(e.GetLeftBehind(), 10),
		})
	}
}

// What becomes of an external CA.
const (
	ExternalFails = "external-ca-fails"
	ExternalBack  = "external-ca-back"
)

// external tells which external CAs began to fail, or ended that.
func (s *step) external(old, now *modelv1.RootCA) {
	for _, h := range now.GetExternalHealth() {
		failed := slices.ContainsFunc(old.GetExternalHealth(), func(o *modelv1.ExternalHealth) bool { return o.GetUrl() == h.GetUrl() && o.GetFailing() })
		switch attributes := map[string]string{"url": h.GetUrl()}; {
		case h.GetFailing() && !failed:
			s.add(s.swarmEntry(), ExternalFails, h.GetError(), attributes)
		case !h.GetFailing() && failed:
			s.add(s.swarmEntry(), ExternalBack, "", attributes)
		}
	}
}

// root tells what became of a rotation of the root.
func (s *step) root(old, now *modelv1.RootCA) {
	s.external(old, now)
	was, is := old.GetRotation(), now.GetRotation()
	switch {
	case is != nil && !bytes.Equal(was.GetId(), is.GetId()):
		s.add(s.swarmEntry(), "root-rotation-start", "", map[string]string{"rotation": hex.EncodeToString(is.GetId())})
	case is != nil && was.GetPhase() != is.GetPhase():
		s.add(s.swarmEntry(), "root-rotation-phase", "", map[string]string{"rotation": hex.EncodeToString(is.GetId()), "phase": phase(is.GetPhase())})
	case is == nil && was != nil:
		e := now.GetLast()
		s.add(s.swarmEntry(), "root-rotation-end", "", map[string]string{
			"rotation": hex.EncodeToString(e.GetId()), "leftbehind": strconv.FormatUint(e.GetLeftBehind(), 10),
			"outcome": strings.ToLower(strings.TrimPrefix(e.GetOutcome().String(), "ROOT_OUTCOME_")),
		})
	}
}

func phase(p modelv1.RootPhase) string {
	return strings.ToLower(strings.TrimPrefix(p.String(), "ROOT_PHASE_"))
}

// settings are the settings that changed, as they were written; one that was left
// to its default is 0.
func settings(old, now *modelv1.ClusterSpec) map[string]string {
	out := make(map[string]string)
	length := func(key string, a, b int64) {
		turned(out, key, time.Duration(a).String(), time.Duration(b).String())
	}
	turned(out, "name", old.GetName(), now.GetName())
	length("heartbeat", old.GetHeartbeatPeriod(), now.GetHeartbeatPeriod())
	length("lease", old.GetLease(), now.GetLease())
	length("certexpiry", old.GetCertExpiry(), now.GetCertExpiry())
	length("managercertexpiry", old.GetManagerCertExpiry(), now.GetManagerCertExpiry())
	length("expiredgrace", old.GetExpiredGrace(), now.GetExpiredGrace())
	turned(out, "expiredrenewal", word(old.GetExpiredRenewal().String(), "EXPIRED_RENEWAL_"), word(now.GetExpiredRenewal().String(), "EXPIRED_RENEWAL_"))
	length("deadmanagerremoval", old.GetDeadManagerRemoval(), now.GetDeadManagerRemoval())
	length("tokenrotation", old.GetTokenRotation(), now.GetTokenRotation())
	turned(out, "standingtokens", onOff(!old.GetNoStandingTokens()), onOff(!now.GetNoStandingTokens()))
	turned(out, "taskhistory", strconv.FormatInt(old.GetTaskHistory(), 10), strconv.FormatInt(now.GetTaskHistory(), 10))
	turned(out, "snapshotinterval", decimal(old.GetSnapshotInterval()), decimal(now.GetSnapshotInterval()))
	turned(out, "massexpiryguard", guard(old), guard(now))
	labelled(out, old.GetLabels(), now.GetLabels())
	return out
}

func guard(spec *modelv1.ClusterSpec) string { return onOff(!spec.GetMassExpiryGuardOff()) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}
