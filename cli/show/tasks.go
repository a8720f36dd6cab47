package show

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// errorCells of a task's error are shown, quotes not counted.
const errorCells = 30

// Tasks is the table of tasks.
var Tasks = Table{
	Columns: []Column{
		{"ID", "ID"}, {"Name", "NAME"}, {"Image", "IMAGE"}, {"Node", "NODE"}, {"DesiredState", "DESIRED STATE"},
		{"CurrentState", "CURRENT STATE"}, {"Error", "ERROR"}, {"Ports", "PORTS"},
	},
	Default: []Cell{
		{Text: "{{.ID}}", Gives: 3}, {Text: "{{.Name}}", Least: 12, Middle: true}, {Text: "{{.Image}}", Gives: 2, Least: 12, Middle: true},
		{Text: "{{.Node}}", Gives: 5, Least: 10}, {Text: "{{.DesiredState}}", Gives: 4}, {Text: "{{.CurrentState}}"},
		{Text: "{{.Error}}", Least: 10}, {Text: "{{.Ports}}", Gives: 1, Least: 10},
	},
	Quiet: "ID",
}

// TaskLook is what the flags of a list of tasks say besides its look.
type TaskLook struct {
	// Whole: nothing is cut. IDs: names are not resolved.
	Whole, IDs bool
	// Marked: an older task of a slot is marked in the table.
	Marked bool
}

// TaskRows returns the rows of tasks: by name, the newest of each slot first and
// the older ones marked under it. now is Unix nanoseconds of log time.
func TaskRows(tasks []*controlv1.TaskView, now int64, look TaskLook) []Row {
	tasks = slices.Clone(tasks)
	slices.SortStableFunc(tasks, func(a, b *controlv1.TaskView) int {
		return cmp.Or(
			Natural(taskName(a, look.IDs), taskName(b, look.IDs)),
			cmp.Compare(b.GetTask().GetCreatedIndex(), a.GetTask().GetCreatedIndex()),
			cmp.Compare(b.GetTask().GetCreatedAt(), a.GetTask().GetCreatedAt()),
			cmp.Compare(ID(a.GetTask().GetId()), ID(b.GetTask().GetId())))
	})
	rows := make([]Row, 0, len(tasks))
	before := ""
	for _, t := range tasks {
		row := taskRow(t, now, look)
		name := taskName(t, look.IDs)
		if look.Marked && name == before {
			row["Name"] = ` \_ ` + name
		}
		before = name
		rows = append(rows, row)
	}
	return rows
}

func taskRow(t *controlv1.TaskView, now int64, look TaskLook) Row {
	digits := ID(t.GetTask().GetId())
	if !look.Whole {
		digits = Short(digits)
	}
	node := t.GetNodeName()
	if look.IDs || node == "" {
		node = ID(t.GetTask().GetNode())
	}
	return Row{
		"ID":           digits,
		"Name":         taskName(t, look.IDs),
		"Image":        Image(t.GetImage(), look.Whole),
		"Node":         node,
		"DesiredState": Title(taskstate.Name(t.GetTask().GetDesired())),
		"CurrentState": currentState(t, now),
		"Error":        taskError(t, look.Whole),
		"Ports":        "",
	}
}

// taskName is "service.slot", or "service.node" for a task without a slot.
func taskName(t *controlv1.TaskView, ids bool) string {
	service := t.GetServiceName()
	if ids || service == "" {
		service = ID(t.GetTask().GetService())
	}
	if slot := t.GetTask().GetSlot(); slot != 0 {
		return service + "." + strconv.FormatUint(slot, 10)
	}
	return service + "." + ID(t.GetTask().GetNode())
}

// currentState is the state and since when; unknown since its host was lost (R6).
func currentState(t *controlv1.TaskView, now int64) string {
	if since := t.GetUnknownSince(); since != 0 {
		return "Unknown " + Ago(since, now)
	}
	status := t.GetTask().GetStatus()
	at := cmp.Or(status.GetAt(), t.GetTask().GetCreatedAt())
	return Title(taskstate.Name(status.GetState())) + " " + Ago(at, now)
}

// taskError is why a task ended, or why it waits, in quotes.
func taskError(t *controlv1.TaskView, whole bool) string {
	status := t.GetTask().GetStatus()
	text := status.GetError()
	switch {
	case text != "":
	case status.GetState() == taskstate.Failed && status.GetExitCode() != 0:
		text = fmt.Sprintf("task: non-zero exit (%d)", status.GetExitCode())
	case !taskstate.Terminal(status.GetState()):
		text = t.GetTask().GetReason()
	}
	text = strings.Join(strings.Fields(text), " ")
	if text == "" {
		return ""
	}
	if !whole {
		text = Cut(text, errorCells)
	}
	return `"` + text + `"`
}
