package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/version"
	"github.com/skep-project/skep/manager/store"
	backupv1 "github.com/skep-project/skep/proto/skep/backup/v1"
)

const (
	// maxManifest bounds the manifest, which is a few hundred bytes.
	maxManifest = 64 << 10
	// MaxState bounds the state, which is held in memory as it is read; a greater
	// one is refused. A million tasks are about a tenth of it.
	MaxState = 4 << 30
)

// ErrDamaged is wrapped by the errors of Read that say the stream is not what
// was written.
var ErrDamaged = rpc.Errorf(errdefs.ErrDataLoss, "the backup is damaged")

// An Image is a backup that was read whole: a store at the backup's index.
type Image struct {
	Manifest *backupv1.Manifest
	Store    *store.Store
}

// Cluster returns the id of the cluster.
func (im *Image) Cluster() id.ID { return asID(im.Manifest.GetCluster()) }

// Read reads a backup to its end and checks every byte against the sums in it.
// What the objects say of each other is Check's to judge. The reader's own
// errors are wrapped.
func Read(r io.Reader) (*Image, error) {
	src := &source{r: r}
	im, err := read(src)
	if src.err != nil {
		return nil, fmt.Errorf("read the backup: %w", src.err)
	}
	return im, err
}

// source is a reader that remembers why it failed, so that a stream that cannot
// be read is not taken for one that is damaged.
type source struct {
	r   io.Reader
	err error // other than io.EOF
}

// Read reads from the stream.
func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

func read(src io.Reader) (*Image, error) {
	whole := sha256.New()
	m, err := readHeader(io.TeeReader(src, whole))
	if err != nil {
		return nil, err
	}
	im := &Image{Manifest: m, Store: store.New()}
	if err := im.readState(src, whole); err != nil {
		return nil, err
	}
	sum := make([]byte, sha256.Size+1) // one more than there may be
	n, err := io.ReadFull(src, sum)
	switch {
	case err == nil:
		return nil, fmt.Errorf("%w: bytes follow its end", ErrDamaged)
	case n != sha256.Size:
		return nil, fmt.Errorf("%w: it is cut off in its last %d bytes", ErrDamaged, sha256.Size)
	case !bytes.Equal(sum[:n], whole.Sum(nil)):
		return nil, fmt.Errorf("%w: its sum is wrong", ErrDamaged)
	}
	return im, im.agree()
}

// readHeader reads up to the state.
func readHeader(r io.Reader) (*backupv1.Manifest, error) {
	head := make([]byte, len(Magic)+1+4)
	n, err := io.ReadFull(r, head)
	begins := min(n, len(Magic))
	switch {
	case n == 0 || string(head[:begins]) != Magic[:begins]:
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "this is no backup of a swarm")
	case err != nil:
		return nil, fmt.Errorf("%w: it is cut off in its head", ErrDamaged)
	case head[len(Magic)] != Format:
		return nil, rpc.Errorf(errdefs.ErrNotImplemented, "the backup is of format %d, this version reads format %d: use the version that wrote it",
			head[len(Magic)], Format)
	}
	size := binary.BigEndian.Uint32(head[len(Magic)+1:])
	if size > maxManifest {
		return nil, fmt.Errorf("%w: its manifest is said to have %d bytes", ErrDamaged, size)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("%w: it is cut off in its manifest", ErrDamaged)
	}
	m := &backupv1.Manifest{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, fmt.Errorf("%w: its manifest is not readable", ErrDamaged)
	}
	return m, readable(m)
}

// readable refuses what a later version wrote, and what is too large.
func readable(m *backupv1.Manifest) error {
	switch {
	case m.GetSize() > MaxState:
		return rpc.Errorf(errdefs.ErrResourceExhausted, "the backup's state has %d bytes, this version reads up to %d", m.GetSize(), uint64(MaxState))
	case m.GetFeatureLevel() > version.FeatureLevel:
		return rpc.Errorf(errdefs.ErrNotImplemented, "the backup is of a swarm at feature level %d, written by version %q, and this version knows levels up to %d: use that version or a newer one",
			m.GetFeatureLevel(), m.GetVersion(), version.FeatureLevel)
	}
	return nil
}

// readState brings the store to the backup's state.
func (im *Image) readState(src io.Reader, whole hash.Hash) error {
	own := sha256.New()
	size := int64(im.Manifest.GetSize()) //nolint:gosec // bounded by MaxState
	state := &io.LimitedReader{R: io.TeeReader(src, io.MultiWriter(whole, own)), N: size}
	if err := im.Store.Restore(state); err != nil {
		if errors.As(err, new(*store.Unreadable)) {
			return fmt.Errorf("read the backup: %w", err)
		}
		return fmt.Errorf("%w: its state: %w", ErrDamaged, err)
	}
	// What the store did not need of it must not be there.
	if n, _ := io.Copy(io.Discard, state); n > 0 || state.N > 0 { // src remembers an error
		return fmt.Errorf("%w: its state is not of the %d bytes that were written", ErrDamaged, size)
	}
	if !bytes.Equal(own.Sum(nil), im.Manifest.GetSha256()) {
		return fmt.Errorf("%w: the sum of its state is wrong", ErrDamaged)
	}
	return nil
}

// agree compares what the manifest says of the state with the state.
func (im *Image) agree() error {
	m, snap := im.Manifest, im.Store.Snapshot()
	c := snap.Cluster()
	switch {
	case c == nil:
		return fmt.Errorf("%w: it holds no cluster", ErrDamaged)
	case asID(c.GetId()).IsZero() || asID(c.GetHistory()).IsZero():
		return fmt.Errorf("%w: its cluster has no id or no history", ErrDamaged)
	case !bytes.Equal(c.GetId(), m.GetCluster()) || !bytes.Equal(c.GetHistory(), m.GetHistory()):
		return fmt.Errorf("%w: it says cluster %x, history %x and holds cluster %x, history %x",
			ErrDamaged, m.GetCluster(), m.GetHistory(), c.GetId(), c.GetHistory())
	case snap.Index() != m.GetIndex() || snap.LogTime().UnixNano() != m.GetLogTime():
		return fmt.Errorf("%w: it says index %d and holds index %d", ErrDamaged, m.GetIndex(), snap.Index())
	case !proto.Equal(counts(snap), m.GetCounts()):
		return fmt.Errorf("%w: it says %v and holds %v", ErrDamaged, m.GetCounts(), counts(snap))
	}
	return nil
}

func asID(b []byte) id.ID {
	x, err := id.FromBytes(b)
	if err != nil {
		return id.ID{}
	}
	return x
}
