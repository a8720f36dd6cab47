package worker

import (
	"errors"
	"fmt"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/skep-project/skep/internal/durable"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
)

// resealName is a journal that is being written under another key.
const resealName = JournalName + ".new"

// Reseal seals the whole journal under another key: it is written anew beside the
// old file and takes its name, so that a crash leaves one or the other, and no page
// that the old key opens stays behind in the new one.
func (j *Journal) Reseal(kek sealed.Secret) error {
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	if kek.Equal(j.kek) {
		return nil
	}
	next, err := j.copyUnder(kek)
	if err != nil {
		return fmt.Errorf("seal the agent's journal anew: %w", err)
	}
	old := j.db
	j.db, j.kek = next, kek
	if err := old.Close(); err != nil {
		return fmt.Errorf("seal the agent's journal anew: close the old one: %w", err)
	}
	return nil
}

// copyUnder returns the journal as another file that is sealed under kek and has
// the journal's name. The turn is held.
func (j *Journal) copyUnder(kek sealed.Secret) (*bolt.DB, error) {
	if err := durable.Remove(j.dir, resealName); err != nil { // of a crash
		return nil, err
	}
	db, err := bolt.Open(resealName, 0o600, &bolt.Options{Timeout: lockPatience, OpenFile: j.dir.OpenFile})
	if err != nil {
		return nil, err
	}
	next := &Journal{db: db, kek: kek, cluster: j.cluster, node: j.node}
	err = j.db.View(func(from *bolt.Tx) error {
		return db.Update(func(to *bolt.Tx) error { return j.copyTables(next, from, to) })
	})
	if err == nil {
		err = j.dir.Rename(resealName, JournalName)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close(), durable.Remove(j.dir, resealName))
	}
	return db, durable.SyncDir(j.dir)
}

func (j *Journal) copyTables(next *Journal, from, to *bolt.Tx) error {
	return from.ForEach(func(table []byte, rows *bolt.Bucket) error {
		b, err := to.CreateBucketIfNotExists(table)
		if err != nil {
			return err
		}
		return rows.ForEach(func(key, blob []byte) error {
			value, err := j.unseal(table, key, blob)
			if err != nil {
				return err
			}
			return next.put(b, write{table: table, key: key, value: value})
		})
	})
}

// ResealJournal seals the journal in dir under kek, if it is there and under
// former: a node whose key was changed did not get that far.
func ResealJournal(dir *os.Root, former, kek sealed.Secret, cluster, node id.ID) error {
	if _, err := dir.Stat(JournalName); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	j, err := OpenJournal(dir, kek, cluster, node)
	if errors.Is(err, sealed.ErrWrongKey) {
		if j, err = OpenJournal(dir, former, cluster, node); err != nil {
			return err
		}
		err = j.Reseal(kek)
	}
	if j == nil {
		return err
	}
	return errors.Join(err, j.Close())
}
