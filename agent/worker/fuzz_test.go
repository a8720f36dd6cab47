package worker

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

// FuzzAssignments reads what a manager says a node is to run: what comes to nothing is
// refused, and no less than what was obeyed is ever obeyed after it.
func FuzzAssignments(f *testing.F) {
	history, service, task := id.New(), id.New().Bytes(), id.New().Bytes()
	for _, a := range []*dispatchv1.Assignments{
		{History: history.Bytes(), Index: 7, Complete: true, Templates: []*dispatchv1.Template{{Service: service, Revision: 1}},
			Put: []*dispatchv1.Assignment{{Task: task, Service: service, Revision: 1}}},
		{History: history.Bytes(), Index: 9, Drop: [][]byte{task}},
		{History: service, Index: 1, Complete: true, Confirmed: true},
		{},
	} {
		text, err := proto.Marshal(a)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &dispatchv1.Assignments{}
		if proto.Unmarshal(data, a) != nil {
			return
		}
		b, err := weigh(history, 8, a)
		if err == nil && b == obey && (a.GetIndex() < 8 || string(a.GetHistory()) != string(history.Bytes())) {
			t.Errorf("index %d of %x is obeyed", a.GetIndex(), a.GetHistory())
		}
		w := &Worker{tasks: map[id.ID]*assigned{id.New(): {}}}
		c, err := w.change(a)
		if err != nil {
			return
		}
		for _, p := range c.put {
			if !a.GetComplete() && p.unknown() {
				t.Errorf("task %x is to run and nobody said how", p.assignment.GetTask())
			}
		}
	})
}
