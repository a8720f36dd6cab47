package worker

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/internal/taskstate"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func root(t *testing.T) *os.Root {
	t.Helper()
	dir, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

func TestAJournalOpensForItsOwnNodeAndKeyOnly(t *testing.T) {
	t.Parallel()
	dir, cluster, node := root(t), id.New(), id.New()
	kek := sealed.NewSecret(slices.Repeat([]byte{1}, 32))
	open := func(kek sealed.Secret, cluster, node id.ID) error {
		j, err := OpenJournal(dir, kek, cluster, node)
		if err != nil {
			return err
		}
		return j.Close()
	}
	if err := errors.Join(open(kek, cluster, node), open(kek, cluster, node)); err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"another key":     open(sealed.NewSecret(slices.Repeat([]byte{2}, 32)), cluster, node),
		"another cluster": open(kek, id.New(), node),
		"another node":    open(kek, cluster, id.New()),
	} {
		if err == nil || !strings.Contains(err.Error(), "belongs to another node or cluster, or to another key") {
			t.Errorf("%s: %v, want it refused in words", name, err)
		}
	}
}

func TestAJournalHoldsNothingInClear(t *testing.T) {
	onStage(t, func(t *testing.T, s *stage) {
		m := s.complete(5, s.put(id.New(), 4, taskstate.Running))
		m.Templates[0].Template.Container.Env = []string{"PASSWORD=hunter2"}
		m.Templates[0].RegistryAuth = &modelv1.RegistryAuth{Registry: "r.test", Username: "bee", Password: []byte("hunter2")}
		s.obey(m)
		s.halt()
		raw, err := s.dir.ReadFile(JournalName)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(raw), "hunter2") || strings.Contains(string(raw), "PASSWORD") {
			t.Error("the journal holds an environment or a password in clear")
		}
		s.start()
		for _, a := range s.tasks {
			if got := a.template.GetRegistryAuth().GetPassword(); string(got) != "hunter2" {
				t.Errorf("after a restart the registry's password is %q", got)
			}
		}
	})
}

func TestWritersOfOneMomentShareACommit(t *testing.T) {
	t.Parallel()
	j, err := OpenJournal(root(t), sealed.NewSecret(make([]byte, 32)), id.New(), id.New())
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	j.turn <- struct{}{} // a commit is under way
	const writers = 50
	var all sync.WaitGroup
	var queued sync.WaitGroup
	queued.Add(writers)
	for i := range writers {
		all.Go(func() {
			b := j.queue(write{table: tableStates, key: []byte(fmt.Sprintf("%016d", i)), value: []byte{}})
			queued.Done()
			if err := j.commit(b); err != nil {
				t.Error(err)
			}
		})
	}
	queued.Wait()
	before := lastTx(t, j)
	<-j.turn
	all.Wait()
	if n := lastTx(t, j) - before; n != 1 {
		t.Errorf("%d commits for %d writers that came together, want 1", n, writers)
	}
	c, err := j.load()
	if err != nil || len(c.states) != writers {
		t.Errorf("%d rows, %v; want %d", len(c.states), err, writers)
	}
}

// lastTx returns the number of the journal's last transaction.
func lastTx(t *testing.T, j *Journal) (n int) {
	t.Helper()
	if err := j.db.View(func(tx *bolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

// Whatever is obeyed, in whatever order and with crashes between, the journal
// holds exactly what a model of R1 holds.
func TestTheJournalHoldsWhatWasObeyed(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(t.TempDir(), "run")
		if err != nil {
			rt.Fatal(err)
		}
		r, err := os.OpenRoot(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		s := &stage{t: t, dir: r, kek: sealed.NewSecret(make([]byte, 32)), cluster: id.New(), node: id.New(), history: id.New(), service: id.New()}
		model, index := map[id.ID]modelv1.TaskState{}, uint64(0)
		tasks := []id.ID{id.New(), id.New(), id.New(), id.New()}
		w, j := s.open(rt)
		for step := range rapid.IntRange(1, 25).Draw(rt, "steps") {
			m := &dispatchv1.Assignments{
				History: s.history.Bytes(), Index: rapid.Uint64Range(1, 20).Draw(rt, fmt.Sprint("index", step)),
				Complete:  index == 0 || rapid.Bool().Draw(rt, fmt.Sprint("complete", step)),
				Templates: []*dispatchv1.Template{s.template()},
			}
			next := map[id.ID]modelv1.TaskState{}
			if !m.Complete {
				for k, v := range model {
					next[k] = v
				}
			}
			for i, task := range tasks {
				switch rapid.IntRange(0, 2).Draw(rt, fmt.Sprint("task", step, i)) {
				case 1:
					m.Put = append(m.Put, s.put(task, 1, taskstate.Running))
					next[task] = taskstate.Running
				case 2:
					if !m.Complete {
						m.Drop = append(m.Drop, task.Bytes())
						delete(next, task)
					}
				}
			}
			err := w.Obey(t.Context(), m, time.Second)
			if behind := m.Index < index; behind != errors.Is(err, ErrBehind) && m.Complete || !m.Complete && err != nil {
				rt.Fatalf("index %d after %d, complete %v: %v", m.Index, index, m.Complete, err)
			}
			if m.Index >= index {
				model, index = next, m.Index
			}
			if rapid.Bool().Draw(rt, fmt.Sprint("crash", step)) {
				if err := j.db.Close(); err != nil {
					rt.Fatal(err)
				}
				w, j = s.open(rt)
			}
			if _, got := w.Position(); got != index || len(w.tasks) != len(model) {
				rt.Fatalf("holds %d tasks at %d, want %d at %d", len(w.tasks), got, len(model), index)
			}
			for task := range model {
				if a := w.tasks[task]; a == nil || a.template == nil {
					rt.Fatalf("task %v or its template is lost", task)
				}
			}
		}
		if err := j.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// open opens the journal and a worker that does not run.
func (s *stage) open(rt *rapid.T) (*Worker, *Journal) {
	j, err := OpenJournal(s.dir, s.kek, s.cluster, s.node)
	if err != nil {
		rt.Fatal(err)
	}
	w, err := New(Config{
		Cluster: s.cluster, Node: s.node, Journal: j, Runtime: s.runtime(),
		Report: func(id.ID, *modelv1.TaskStatus) {}, Log: discard,
	})
	if err != nil {
		rt.Fatal(err)
	}
	return w, j
}
