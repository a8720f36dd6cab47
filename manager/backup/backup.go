// Package backup is a swarm's whole state in one stream: it writes one, reads one
// into an empty store, and says what is wrong with what it read.
//
// It owns the format (docs/disk-formats.md) and the rules by which the objects of
// a state belong together. It leaves to others where the bytes go and who may
// have them: package seal below it closes and opens the stream, internal/node
// founds a swarm from it. It does no I/O but on the reader or writer it is given.
//
// Invariants: what is written is one snapshot, so it is consistent while writes
// go on; a stream that Read accepts is whole, byte for byte; a format it does not
// know is refused, and nothing is skipped.
package backup

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager/store"
	backupv1 "github.com/skep-project/skep/proto/skep/backup/v1"
)

// Magic is what every backup begins with, in clear; the format follows it.
const Magic = "skepbackup"

// Format is the version of the stream that is written, and the only one read.
const Format = 1

// About is what a backup says of its own making.
type About struct {
	// Node is the manager that writes it, and At its clock.
	Node id.ID
	At   time.Time
	// Stale says that nobody confirmed the state to be the newest.
	Stale bool
}

// Write writes the backup of snap and returns what it said of it. It reads a
// state that does not change, so it may take its time; it encodes it twice, once
// to say its size and sum before it.
func Write(w io.Writer, snap *store.Snapshot, about About) (*backupv1.Manifest, error) {
	if snap.Cluster() == nil {
		return nil, fmt.Errorf("write a backup: this manager holds no cluster")
	}
	sum := &sizedHash{Hash: sha256.New()}
	if err := snap.Encode(sum); err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	m := manifest(snap, about)
	m.Size, m.Sha256 = sum.size, sum.Sum(nil)
	head, err := header(m)
	if err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	whole := sha256.New()
	both := io.MultiWriter(w, whole)
	if _, err := both.Write(head); err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	if err := snap.Encode(both); err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	if _, err := w.Write(whole.Sum(nil)); err != nil {
		return nil, fmt.Errorf("write a backup: %w", err)
	}
	return m, nil
}

// manifest is what is said of snap, but for size and sum.
func manifest(snap *store.Snapshot, about About) *backupv1.Manifest {
	c := snap.Cluster()
	return &backupv1.Manifest{
		Cluster: c.GetId(), History: c.GetHistory(), Index: snap.Index(), LogTime: snap.LogTime().UnixNano(),
		Version: version.Version, FeatureLevel: c.GetFeatureLevel(),
		MadeBy: about.Node.Bytes(), MadeAt: about.At.UnixNano(), Stale: about.Stale,
		Counts: counts(snap),
	}
}

func counts(snap *store.Snapshot) *backupv1.Counts {
	n := snap.Census()
	return &backupv1.Counts{
		Nodes: uint64(n.Nodes), Members: uint64(n.Members), Services: uint64(n.Services), Revisions: uint64(n.Revisions), //nolint:gosec // a count is not negative
		Tasks: uint64(n.Tasks), Claims: uint64(n.Claims), Answered: uint64(n.Answered), //nolint:gosec // a count is not negative
	}
}

// header is magic, format and the manifest behind its length.
func header(m *backupv1.Manifest) ([]byte, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	head := append([]byte(Magic), Format)
	head = binary.BigEndian.AppendUint32(head, uint32(len(body))) //nolint:gosec // a few hundred bytes
	return append(head, body...), nil
}

// sizedHash is a hash that counts.
type sizedHash struct {
	hash.Hash
	size uint64
}

// Write adds p.
func (h *sizedHash) Write(p []byte) (int, error) {
	h.size += uint64(len(p))
	return h.Hash.Write(p)
}
