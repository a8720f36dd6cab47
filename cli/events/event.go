package events

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skep-project/skep/cli/show"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// event is an event as scripts and templates see it. The names are Docker's, and
// Index and Reason are ours; the set only grows.
type event struct {
	Type     string
	Action   string
	Actor    actor
	Scope    string `json:"scope"`
	Time     int64  `json:"time"` // Unix seconds
	TimeNano int64  `json:"timeNano"`
	Index    uint64 `json:"index"`
	Reason   string `json:"reason,omitempty"`
}

type actor struct {
	ID         string
	Attributes map[string]string
}

// ID and Status are what templates of old call them.
func (e event) ID() string     { return e.Actor.ID }
func (e event) Status() string { return e.Action }

// sample is what a template is tried on before anything happens.
var sample = event{Actor: actor{Attributes: map[string]string{}}}

func newEvent(m *controlv1.WatchEventsResponse, v *controlv1.Event) event {
	e := event{
		Type: v.GetType(), Action: v.GetAction(), Actor: actor{ID: show.ID(v.GetId()), Attributes: map[string]string{}},
		Scope: "swarm", Time: m.GetAt() / int64(time.Second), TimeNano: m.GetAt(), Index: m.GetIndex(), Reason: v.GetReason(),
	}
	maps.Copy(e.Actor.Attributes, v.GetAttributes())
	if v.GetName() != "" {
		e.Actor.Attributes["name"] = v.GetName()
	}
	return e
}

// reset is what a reader is told in place of what is not known any more.
func reset(m *controlv1.WatchEventsResponse) event {
	return newEvent(m, &controlv1.Event{Type: "swarm", Action: "reset",
		Reason: "what happened before is not known here, wholly or in part: list what there is, and go on from this index"})
}

// line is the form people read: when, the index, what happened to what, and why.
func (e event) line() string {
	var b strings.Builder
	b.WriteString(time.Unix(0, e.TimeNano).Local().Format("2006-01-02T15:04:05.000000000Z07:00"))
	b.WriteString(" @" + strconv.FormatUint(e.Index, 10) + " " + e.Type + " " + e.Action)
	if e.Actor.ID != "" {
		b.WriteString(" " + e.Actor.ID)
	}
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		pairs = append(pairs, k+"="+e.Actor.Attributes[k])
	}
	if len(pairs) > 0 {
		b.WriteString(" (" + strings.Join(pairs, ", ") + ")")
	}
	if e.Reason != "" {
		b.WriteString(": " + e.Reason)
	}
	return strings.Map(printable, b.String())
}

// printable keeps a label from moving the cursor.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
		return ' '
	}
	return r
}
