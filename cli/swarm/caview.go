package swarm

import (
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// maxShown is how many stragglers are named on a screen.
const maxShown = 10

// caLine is the root and a rotation of it as scripts see it, one line for each
// change. The set of fields only grows.
type caLine struct {
	Time time.Time `json:"time"`
	// State is none, trust, renew, back, done, quarantined or aborted.
	State string `json:"state"`
	// Root is the SHA-256 of the root that a rotation leads to, or of the one that
	// signs.
	Root     string `json:"root"`
	Rotation string `json:"rotation,omitempty"`
	By       string `json:"by,omitempty"`

	Started     *time.Time `json:"started,omitempty"`
	Deadline    *time.Time `json:"deadline,omitempty"`
	Ended       *time.Time `json:"ended,omitempty"`
	OnStraggler string     `json:"on_straggler,omitempty"`
	Overdue     bool       `json:"overdue,omitempty"`

	Nodes        uint64        `json:"nodes"`
	Trusting     uint64        `json:"trusting"`
	Renewed      uint64        `json:"renewed"`
	Users        uint64        `json:"users"`
	UsersRenewed uint64        `json:"users_renewed"`
	Behind       uint64        `json:"behind"`
	Stragglers   []caStraggler `json:"stragglers,omitempty"`
}

type caStraggler struct {
	Kind   string `json:"kind"` // node or user
	ID     string `json:"id"`
	Name   string `json:"name"`
	Reason string `json:"reason"`
}

var phaseWords = map[modelv1.RootPhase]string{
	modelv1.RootPhase_ROOT_PHASE_TRUST: "trust",
	modelv1.RootPhase_ROOT_PHASE_RENEW: "renew",
	modelv1.RootPhase_ROOT_PHASE_BACK:  "back",
}

var outcomeWords = map[modelv1.RootOutcome]string{
	modelv1.RootOutcome_ROOT_OUTCOME_DONE:        "done",
	modelv1.RootOutcome_ROOT_OUTCOME_QUARANTINED: "quarantined",
	modelv1.RootOutcome_ROOT_OUTCOME_ABORTED:     "aborted",
}

func newCALine(v *controlv1.RootView) caLine {
	l := caLine{Time: time.Unix(0, v.GetNow()).UTC(), State: "none"}
	if certs := v.GetCertificates(); len(certs) > 0 {
		l.Root = digestOf(certs[0])
	}
	if r := v.GetRotation(); r != nil {
		l.State, l.Root = phaseWords[r.GetPhase()], digestOf(r.GetTarget())
		l.Rotation, l.By = hex.EncodeToString(r.GetId()), r.GetBy()
		l.Started, l.Deadline, l.OnStraggler = show.Time(r.GetStartedAt()), show.Time(r.GetDeadline()), policyWord(r.GetOnStraggler())
		l.Overdue = v.GetNow() >= r.GetDeadline()
		l.Nodes, l.Trusting, l.Renewed, l.Users, l.UsersRenewed = r.GetNodes(), r.GetTrusting(), r.GetRenewed(), r.GetUsers(), r.GetUsersRenewed()
		l.Behind, l.Stragglers = r.GetBehind(), newStragglers(r.GetStragglers())
	} else if e := v.GetLast(); e != nil {
		l.State, l.Rotation = outcomeWords[e.GetOutcome()], hex.EncodeToString(e.GetId())
		l.Started, l.Ended = show.Time(e.GetStartedAt()), show.Time(e.GetEndedAt())
		l.Behind, l.Stragglers = e.GetLeftBehind(), newStragglers(e.GetStragglers())
	}
	return l
}

func digestOf(der []byte) string {
	d := ca.RootDigest(der)
	return hex.EncodeToString(d[:])
}

func policyWord(p modelv1.StragglerPolicy) string {
	if p == modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE {
		return "quarantine"
	}
	return "wait"
}

func newStragglers(list []*modelv1.RootStraggler) (out []caStraggler) {
	for _, s := range list {
		x := caStraggler{Kind: "node", ID: show.ID(s.GetNode()), Name: s.GetName(), Reason: s.GetReason()}
		if len(s.GetUser()) > 0 {
			x.Kind, x.ID = "user", show.ID(s.GetUser())
		}
		out = append(out, x)
	}
	return out
}

// String names a straggler and says why it is one.
func (s caStraggler) String() string {
	name := s.Name
	if name == "" {
		name = s.ID
	}
	return s.Kind + " " + name + ": " + s.Reason
}

// text is the line for scripts.
func (l caLine) text() (string, error) {
	b, err := json.Marshal(l)
	return string(b), err
}

// frame is the progress of a rotation on a screen.
func (l caLine) frame() []progress.Line {
	head := map[string]string{
		"trust": "the next root is given to all nodes", "renew": "nodes renew their certificates", "back": "aborted: nodes go back to the former root",
	}[l.State]
	lines := []progress.Line{
		{Text: "rotation of the root: " + head},
		bar("trust updated", l.Trusting, l.Nodes),
		bar("renewed leaves", l.Renewed, l.Nodes),
	}
	if l.Users > 0 {
		lines = append(lines, bar("renewed users", l.UsersRenewed, l.Users))
	}
	shown := l.Stragglers[:min(maxShown, len(l.Stragglers))]
	for _, s := range shown {
		lines = append(lines, progress.Line{Text: "  " + s.String()})
	}
	if more := l.Behind - uint64(len(shown)); more > 0 {
		lines = append(lines, progress.Line{Text: fmt.Sprintf("  and %d more", more)})
	}
	return lines
}

func bar(what string, part, whole uint64) progress.Line {
	text := fmt.Sprintf("  %s: %d/%d ", what, part, whole)
	return progress.Line{Text: text, Bar: progress.Bar(int(part), int(whole))}
}

// names says who has not followed, for an error.
func (l caLine) names() string {
	shown := l.Stragglers[:min(maxShown, len(l.Stragglers))]
	out := make([]string, 0, len(shown)+1)
	for _, s := range shown {
		out = append(out, s.String())
	}
	switch more := l.Behind - uint64(len(shown)); {
	case len(shown) == 0:
		return fmt.Sprint(l.Behind) // users, which not everybody is told the names of
	case more > 0:
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, "; ")
}

// pemOf writes roots as PEM.
func pemOf(ders [][]byte) string {
	var b strings.Builder
	for _, der := range ders {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a builder takes everything
	}
	return b.String()
}
