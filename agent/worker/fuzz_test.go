package worker

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	journalv1 "github.com/skep-project/skep/proto/skep/journal/v1"
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

// FuzzRow opens a row of the journal: it is the one that was written there, or none.
func FuzzRow(f *testing.F) {
	j := &Journal{kek: sealed.NewSecret(make([]byte, 32)), cluster: id.New(), node: id.New()}
	task := &journalv1.Task{Assignment: &dispatchv1.Assignment{Task: id.New().Bytes(), Revision: 3}}
	value, err := proto.Marshal(task)
	if err != nil {
		f.Fatal(err)
	}
	key := task.GetAssignment().GetTask()
	blob, err := sealed.Wrap(j.kek, value, j.place(tableTasks, key))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(key, blob)
	f.Add(key[1:], blob)
	f.Add(key, blob[:len(blob)-1])
	f.Add([]byte("head"), []byte{1})
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, at, data []byte) {
		for _, table := range [][]byte{tableTasks, tableStates} {
			got := &journalv1.Task{}
			err := j.read(table, at, data, got)
			if own := string(table) == string(tableTasks) && string(at) == string(key); err == nil && (!own || !proto.Equal(got, task)) {
				t.Errorf("row %x of %s: %x opens as %v", at, table, data, got)
			}
		}
	})
}
