package worker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/meter"
	"github.com/skep-project/skep/internal/sealed"
	journalv1 "github.com/skep-project/skep/proto/skep/journal/v1"
)

// journalFormat is the version of the journal this program reads and writes.
const journalFormat = 1

// lockPatience is how long Open waits for another process to let go of the file.
const lockPatience = 3 * time.Second

// The journal's tables. Every row has one writer, so that rows written at the
// same time never undo each other: an assignment is written by Obey, a state
// by its task's runner.
var (
	tableFacts     = []byte("facts")     // "head", "session", "managers", "hold"
	tableTemplates = []byte("templates") // service id, revision → dispatchv1.Template
	tableTasks     = []byte("tasks")     // task id → journalv1.Task, its assignment only
	tableStates    = []byte("states")    // task id → journalv1.Task, its status only
)

var (
	factHead     = []byte("head")     // journalv1.Head: format, cluster, node, history, index
	factSession  = []byte("session")  // journalv1.Head: session
	factManagers = []byte("managers") // journalv1.Head: managers
	factHold     = []byte("hold")     // Unix nanoseconds until which nothing is removed, 8 bytes
)

// A Journal is what the agent remembers over its own restart (D12): a bbolt
// file whose every value is sealed under the node's KEK, bound to its table,
// row, cluster and node.
//
// Writes are queued and committed together: whoever needs his durable commits
// all that has been queued by anyone since the last commit (R7).
type Journal struct {
	dir           *os.Root
	db            *bolt.DB      // the turn guards it
	kek           sealed.Secret // the turn guards it
	cluster, node id.ID

	mu   sync.Mutex // guards open; held for memory only
	open *batch     // what the next commit will write

	// turn is held by whoever commits: one commit at a time, and those who
	// wait for their turn find that the one before has written theirs.
	turn chan struct{}

	took meter.Durations // of commits that wrote something
}

// batch is what one commit writes.
type batch struct {
	writes []write
	done   bool // its commit has ended, with err; guarded by the turn
	err    error
}

// write is one row; a nil value deletes it.
type write struct{ table, key, value []byte }

// JournalName is the journal's file in the agent's directory.
const JournalName = "journal.db"

// OpenJournal opens or makes the journal in dir. A journal of another node or
// cluster, of a format this version does not know, or sealed under another key
// is an error.
func OpenJournal(dir *os.Root, kek sealed.Secret, cluster, node id.ID) (*Journal, error) {
	own, err := dir.OpenRoot(".") // the caller may close dir
	if err != nil {
		return nil, fmt.Errorf("open journal %s in %s: %w", JournalName, dir.Name(), err)
	}
	db, err := bolt.Open(JournalName, 0o600, &bolt.Options{Timeout: lockPatience, OpenFile: own.OpenFile})
	if err != nil {
		if errors.Is(err, bolterrors.ErrTimeout) {
			err = errors.New("another process holds it; is a daemon running with this state directory?")
		}
		return nil, fmt.Errorf("open journal %s in %s: %w", JournalName, dir.Name(), errors.Join(err, own.Close()))
	}
	j := &Journal{dir: own, db: db, kek: kek, cluster: cluster, node: node, open: &batch{}, turn: make(chan struct{}, 1)}
	if err := j.establish(); err != nil {
		return nil, fmt.Errorf("open journal %s in %s: %w", JournalName, dir.Name(), errors.Join(err, db.Close(), own.Close()))
	}
	return j, nil
}

// establish makes the tables and the head of a new journal and checks those of
// an old one.
func (j *Journal) establish() error {
	return j.db.Update(func(tx *bolt.Tx) error {
		for _, table := range [][]byte{tableFacts, tableTemplates, tableTasks, tableStates} {
			if _, err := tx.CreateBucketIfNotExists(table); err != nil {
				return err
			}
		}
		facts := tx.Bucket(tableFacts)
		if facts.Get(factHead) == nil {
			return j.putMessage(facts, factHead, j.head(id.ID{}, 0))
		}
		var h journalv1.Head
		if err := j.read(tableFacts, factHead, facts.Get(factHead), &h); err != nil {
			return err
		}
		if h.GetFormat() != journalFormat {
			return fmt.Errorf("it has format %d, this version knows %d; run the version that wrote it: %w",
				h.GetFormat(), journalFormat, errdefs.ErrNotImplemented)
		}
		return nil
	})
}

// Close commits what is queued and closes the file.
func (j *Journal) Close() error {
	return errors.Join(j.Flush(), j.db.Close(), j.dir.Close())
}

// Flush makes everything queued so far durable.
func (j *Journal) Flush() error { return j.commit(nil) }

// head returns the row about the journal itself.
func (j *Journal) head(history id.ID, index uint64) *journalv1.Head {
	return &journalv1.Head{
		Format: journalFormat, Cluster: j.cluster.Bytes(), Node: j.node.Bytes(),
		History: history.Bytes(), Index: index,
	}
}

// queue adds writes to the next commit and returns it. Writes of one row are
// committed in the order in which they were queued.
func (j *Journal) queue(writes ...write) *batch {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.open.writes = append(j.open.writes, writes...)
	return j.open
}

// commit makes b durable, or everything queued so far if b is nil, and all
// that was queued until its turn came.
func (j *Journal) commit(b *batch) error {
	if b == nil {
		b = j.queue()
	}
	j.turn <- struct{}{}
	defer func() { <-j.turn }()
	if b.done {
		return b.err
	}
	j.mu.Lock()
	j.open = &batch{}
	j.mu.Unlock()
	b.done = true
	if len(b.writes) > 0 {
		begin := time.Now()
		b.err = j.db.Update(func(tx *bolt.Tx) error { return j.putAll(tx, b.writes) })
		j.took.Since(begin)
	}
	if b.err != nil {
		b.err = fmt.Errorf("write the agent's journal: %w", b.err)
	}
	return b.err
}

func (j *Journal) putAll(tx *bolt.Tx, writes []write) error {
	for _, w := range writes {
		if err := j.put(tx.Bucket(w.table), w); err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) put(b *bolt.Bucket, w write) error {
	if w.value == nil {
		return b.Delete(w.key)
	}
	blob, err := sealed.Wrap(j.kek, w.value, j.place(w.table, w.key))
	if err != nil {
		return err
	}
	return b.Put(w.key, blob)
}

// place is what a row is bound to.
func (j *Journal) place(table, key []byte) []byte {
	var aad []byte
	for _, part := range [][]byte{[]byte("journal"), j.cluster[:], j.node[:], table, key} {
		aad = binary.BigEndian.AppendUint32(aad, uint32(len(part)))
		aad = append(aad, part...)
	}
	return aad
}

func (j *Journal) putMessage(b *bolt.Bucket, key []byte, m proto.Message) error {
	w, err := row(tableFacts, key, m)
	if err != nil {
		return err
	}
	return j.put(b, w)
}

// row returns the write of a message.
func row(table, key []byte, m proto.Message) (write, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return write{}, fmt.Errorf("encode a row of %s: %w", table, err)
	}
	if value == nil {
		value = []byte{}
	}
	return write{table: table, key: key, value: value}, nil
}

// erase returns the write that deletes a row.
func erase(table, key []byte) write { return write{table: table, key: key} }

// read opens a row into m.
func (j *Journal) read(table, key, blob []byte, m proto.Message) error {
	value, err := j.unseal(table, key, blob)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(value, m); err != nil {
		return fmt.Errorf("row %x of %s: %w", key, table, err)
	}
	return nil
}

func (j *Journal) unseal(table, key, blob []byte) ([]byte, error) {
	value, err := sealed.Unwrap(j.kek, blob, j.place(table, key))
	if errors.Is(err, sealed.ErrWrongKey) {
		return nil, fmt.Errorf("row %x of %s belongs to another node or cluster, or to another key: %w", key, table, err)
	}
	if err != nil {
		return nil, fmt.Errorf("row %x of %s: %w", key, table, err)
	}
	return value, nil
}
