package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	journalv1 "github.com/skep-project/skep/proto/skep/journal/v1"
)

// contents is everything a journal holds.
type contents struct {
	head      *journalv1.Head
	session   uint64
	managers  *cav1.ManagerList
	hold      time.Time
	templates map[templateKey]*dispatchv1.Template
	tasks     map[id.ID]*dispatchv1.Assignment
	states    map[id.ID]*journalv1.Task
}

// load reads everything.
func (j *Journal) load() (contents, error) {
	c := contents{
		head:      &journalv1.Head{},
		templates: make(map[templateKey]*dispatchv1.Template),
		tasks:     make(map[id.ID]*dispatchv1.Assignment),
		states:    make(map[id.ID]*journalv1.Task),
	}
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	err := j.db.View(func(tx *bolt.Tx) error {
		return errors.Join(j.loadFacts(tx, &c), j.loadTemplates(tx, &c), j.loadTasks(tx, &c))
	})
	if err != nil {
		return contents{}, fmt.Errorf("read the agent's journal: %w", err)
	}
	return c, nil
}

func (j *Journal) loadFacts(tx *bolt.Tx, c *contents) error {
	facts := tx.Bucket(tableFacts)
	if err := j.read(tableFacts, factHead, facts.Get(factHead), c.head); err != nil {
		return err
	}
	for _, key := range [][]byte{factSession, factManagers} {
		blob := facts.Get(key)
		if blob == nil {
			continue
		}
		var h journalv1.Head
		if err := j.read(tableFacts, key, blob, &h); err != nil {
			return err
		}
		c.session = max(c.session, h.GetSession())
		if h.GetManagers() != nil {
			c.managers = h.GetManagers()
		}
	}
	blob := facts.Get(factHold)
	if blob == nil {
		return nil
	}
	value, err := j.unseal(tableFacts, factHold, blob)
	if err != nil {
		return err
	}
	if len(value) != 8 {
		return fmt.Errorf("row hold of %s has %d bytes, want 8: %w", tableFacts, len(value), errdefs.ErrDataLoss)
	}
	c.hold = time.Unix(0, int64(binary.BigEndian.Uint64(value)))
	return nil
}

func (j *Journal) loadTemplates(tx *bolt.Tx, c *contents) error {
	return tx.Bucket(tableTemplates).ForEach(func(key, blob []byte) error {
		var t dispatchv1.Template
		if err := j.read(tableTemplates, key, blob, &t); err != nil {
			return err
		}
		k, err := keyOf(t.GetService(), t.GetRevision())
		c.templates[k] = &t
		return err
	})
}

func (j *Journal) loadTasks(tx *bolt.Tx, c *contents) error {
	for _, table := range [][]byte{tableTasks, tableStates} {
		err := tx.Bucket(table).ForEach(func(key, blob []byte) error {
			var t journalv1.Task
			if err := j.read(table, key, blob, &t); err != nil {
				return err
			}
			task, err := id.FromBytes(key)
			if err != nil {
				return fmt.Errorf("row %x of %s: %w", key, table, err)
			}
			if t.GetAssignment() != nil {
				c.tasks[task] = t.GetAssignment()
			} else {
				c.states[task] = &t
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// templateKey names a template.
type templateKey struct {
	service  id.ID
	revision uint64
}

func keyOf(service []byte, revision uint64) (templateKey, error) {
	s, err := id.FromBytes(service)
	if err != nil {
		return templateKey{}, fmt.Errorf("service: %w", err)
	}
	return templateKey{service: s, revision: revision}, nil
}

// bytes returns the key of the template's row.
func (k templateKey) bytes() []byte {
	return binary.BigEndian.AppendUint64(k.service.Bytes(), k.revision)
}
