package swarm

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/cli/conn"
	"github.com/skep-project/skep/cli/progress"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// condemnLine is a condemnation as scripts see it, one line for each change. The set
// of fields only grows.
type condemnLine struct {
	Time time.Time `json:"time"`
	// Step is out, data-key, root; done, or left-behind.
	Step  string          `json:"step"`
	ID    string          `json:"id"`
	By    string          `json:"by,omitempty"`
	Nodes []condemnedNode `json:"nodes"`

	Started *time.Time `json:"started,omitempty"`
	Ended   *time.Time `json:"ended,omitempty"`
	// UnlockKey: it was replaced. It is never shown here.
	UnlockKey  bool          `json:"unlock_key_replaced"`
	Behind     uint64        `json:"behind"`
	Stragglers []caStraggler `json:"stragglers,omitempty"`
	// Rotation is that of the root, as "ctl swarm ca --format json" shows it.
	Rotation *caLine `json:"rotation,omitempty"`
}

type condemnedNode struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Remove bool   `json:"remove"`
}

var condemnSteps = map[modelv1.CondemnationStep]string{
	modelv1.CondemnationStep_CONDEMNATION_STEP_OUT:      "out",
	modelv1.CondemnationStep_CONDEMNATION_STEP_DATA_KEY: "data-key",
	modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT:     "root",
}

// newCondemnLine is what a view says of the condemnation that is under way, or of the
// last one.
func newCondemnLine(v *controlv1.RootView) condemnLine {
	l := condemnLine{Time: time.Unix(0, v.GetNow()).UTC()}
	if x := v.GetCondemnation(); x != nil {
		l.Step, l.ID, l.By, l.Nodes = condemnSteps[x.GetStep()], hex.EncodeToString(x.GetId()), x.GetBy(), condemnedNodes(x.GetNodes())
		l.Started, l.UnlockKey = show.Time(x.GetStartedAt()), x.GetRelocked()
		if v.GetRotation() != nil && x.GetStep() == modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT {
			r := newCALine(v)
			l.Rotation, l.Behind, l.Stragglers = &r, r.Behind, r.Stragglers
		}
		return l
	}
	e := v.GetCondemned()
	l.Step, l.ID, l.Nodes = "done", hex.EncodeToString(e.GetId()), condemnedNodes(e.GetNodes())
	l.Started, l.Ended, l.UnlockKey = show.Time(e.GetStartedAt()), show.Time(e.GetEndedAt()), e.GetRelocked()
	l.Behind, l.Stragglers = e.GetLeftBehind(), newStragglers(e.GetStragglers())
	if l.Behind > 0 {
		l.Step = "left-behind"
	}
	return l
}

func condemnedNodes(nodes []*modelv1.Condemned) (out []condemnedNode) {
	for _, n := range nodes {
		out = append(out, condemnedNode{ID: show.ID(n.GetNode()), Name: n.GetName(), Remove: n.GetRemove()})
	}
	return out
}

// who names the nodes.
func (l condemnLine) who() string {
	var names []string
	for _, n := range l.Nodes {
		names = append(names, n.Name)
	}
	return strings.Join(names, ", ")
}

// frame is the progress on a screen.
func (l condemnLine) frame() []progress.Line {
	head := map[string]string{
		"out":      "it is taken out of the managers",
		"data-key": "the data key is replaced",
		"root":     "the root is replaced",
	}[l.Step]
	if l.Step == "root" && l.UnlockKey {
		head = "the unlock key was replaced, and the root is"
	}
	lines := []progress.Line{{Text: fmt.Sprintf("what %s knew: %s", l.who(), head)}}
	if l.Rotation != nil {
		lines = append(lines, l.Rotation.frame()...)
	}
	return lines
}

// A condemnFollower shows how far a condemnation is until it ends.
type condemnFollower struct {
	api    *conn.Conn
	order  *condemning
	id     []byte
	screen *progress.Screen // nil: quietly

	last *controlv1.RootView
}

func newCondemnFollower(api *conn.Conn, o *condemning, v *controlv1.RootView) *condemnFollower {
	f := &condemnFollower{api: api, order: o, id: v.GetCondemnation().GetId(), last: v}
	if v.GetCondemnation() == nil { // it was over before it could be shown
		f.id = v.GetCondemned().GetId()
	}
	if s := api.Streams(); !o.quiet && !o.json {
		f.screen = &progress.Screen{W: s.Err}
		f.screen.Width, _ = s.Terminal()
	}
	return f
}

// detached says that it goes on.
func (f *condemnFollower) detached(v *controlv1.RootView) error {
	switch {
	case f.order.json:
		return f.line(v)
	case f.order.quiet:
		return nil
	}
	if err := f.api.Streams().Data("What %s knew is replaced in the background; follow it with: %s", newCondemnLine(v).who(), f.order.again()); err != nil {
		return err
	}
	f.api.Streams().Note("if managers are locked they get another unlock key: ctl swarm unlock-key shows it when the root is being replaced")
	return nil
}

func (f *condemnFollower) line(v *controlv1.RootView) error {
	b, err := json.Marshal(newCondemnLine(v))
	if err != nil {
		return err
	}
	return f.api.Streams().Data("%s", b)
}

func (f *condemnFollower) left(v *controlv1.RootView) (time.Duration, bool) {
	r, x := v.GetRotation(), v.GetCondemnation()
	if r == nil || x.GetStep() != modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT || r.GetOnStraggler() != modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT {
		return 0, false
	}
	return time.Duration(r.GetDeadline() - v.GetNow()), true
}

func (f *condemnFollower) take(v *controlv1.RootView) error {
	f.last = v
	switch x := v.GetCondemnation(); {
	case x != nil && bytes.Equal(x.GetId(), f.id):
		if f.order.json {
			return f.line(v)
		}
		if f.screen != nil {
			f.screen.Draw(newCondemnLine(v).frame())
		}
		return nil
	case x == nil && bytes.Equal(v.GetCondemned().GetId(), f.id):
		return errWatched
	}
	return say.Hinted(errors.New("it is over, and another was begun since: how it ended is not known any more"), "see how far that is: ctl swarm ca")
}

func (f *condemnFollower) ended(end error) error {
	if f.screen != nil {
		f.screen.End()
	}
	if !errors.Is(end, errWatched) {
		return end
	}
	if f.order.json {
		if err := f.line(f.last); err != nil {
			return err
		}
	}
	l := newCondemnLine(f.last)
	if l.Behind > 0 {
		return &say.Error{Code: say.Partly, Hint: leftBehindHint,
			Err: fmt.Errorf("nothing that %s knew is worth anything any more, and %d were left behind: %s%s", l.who(), l.Behind, caLine{Stragglers: l.Stragglers, Behind: l.Behind}.names(), relockWords(l))}
	}
	if f.order.json || f.order.quiet {
		return nil
	}
	return f.api.Streams().Data("Nothing that %s knew is worth anything any more.", l.who())
}

// relockWords remind of the unlock key where it is not shown.
func relockWords(l condemnLine) string {
	if !l.UnlockKey {
		return ""
	}
	return "; managers have another unlock key: ctl swarm unlock-key shows it"
}

func (f *condemnFollower) overdue() error {
	if f.screen != nil {
		f.screen.End()
	}
	l := newCondemnLine(f.last)
	return &say.Error{Code: say.Overdue, Hint: `bring them back or remove them (ctl node rm, ctl user rm), or leave them behind with "ctl swarm ca --rotate --on-straggler quarantine"`,
		Err: fmt.Errorf("the deadline is over, and the root that %s knew stays trusted for %d: %s%s", l.who(), l.Behind, caLine{Stragglers: l.Stragglers, Behind: l.Behind}.names(), relockWords(l))}
}

// lock shows the unlock key that took the former one's place, once, to who looks at
// standard output; limit bounds asking for it.
func (f *condemnFollower) lock(ctx context.Context, limit time.Duration) error {
	if !newCondemnLine(f.last).UnlockKey || f.order.json || f.order.quiet {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	key, behind, err := getUnlockKey(ctx, f.api, false)
	if err != nil {
		return fmt.Errorf("managers have another unlock key, and it is not shown: %w", err)
	}
	if err := tellUnlockKey(f.api.Streams(), key); err != nil {
		return err
	}
	if len(behind) > 0 {
		f.api.Streams().Warn("these managers still open with the former key, until they have heard of this one: " + strings.Join(behind, ", "))
	}
	return nil
}
