package sealed

import (
	"bufio"
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/skep-project/skep/internal/id"
)

const (
	// ChunkBytes is the plaintext of every chunk of a sealed file but the last.
	ChunkBytes = 64 << 10
	// HeaderBytes is the length of a sealed file's head: seven letters, the
	// format, the key's number (big-endian) and the salt.
	HeaderBytes = 8 + 4 + SaltBytes

	fileMagic  = "skepbox"
	fileFormat = 1
)

// A Place says where a file belongs; it opens nowhere else.
type Place struct {
	Cluster, History id.ID
	// Purpose is a constant word, such as "snapshot".
	Purpose string
}

func (p Place) info() string {
	return "skep file v1\x00" + p.Purpose + "\x00" + string(p.Cluster[:]) + string(p.History[:])
}

// A Writer seals what is written to it in numbered chunks of 64 KiB. The file
// is whole only once Close has returned nil, which marks the last chunk.
type Writer struct {
	w    io.Writer
	aead cipher.AEAD
	head []byte
	buf  []byte
	out  []byte
	n    uint64
	err  error
	key  uint32
}

// NewWriter writes the head of a sealed file to w and returns its Writer. The
// file is sealed under the ring's active key and a salt drawn from random.
func NewWriter(w io.Writer, ring *Ring, place Place, random io.Reader) (*Writer, error) {
	head := make([]byte, HeaderBytes)
	copy(head, fileMagic)
	head[7] = fileFormat
	num := ring.Active()
	binary.BigEndian.PutUint32(head[8:], num)
	if _, err := io.ReadFull(random, head[12:]); err != nil {
		return nil, fmt.Errorf("seal file: draw the salt: %w", err)
	}
	key, ok := ring.Key(num)
	if !ok {
		return nil, fmt.Errorf("seal file: data key %d: %w", num, ErrUnknownKey)
	}
	aead, err := derive(key, head[12:], place.info())
	if err != nil {
		return nil, fmt.Errorf("seal file: %w", err)
	}
	if _, err := w.Write(head); err != nil {
		return nil, fmt.Errorf("seal file: %w", err)
	}
	return &Writer{w: w, aead: aead, head: head, key: num, buf: make([]byte, 0, ChunkBytes), out: make([]byte, 0, ChunkBytes+overhead)}, nil
}

// Key returns the number of the ring key the file is sealed under.
func (w *Writer) Key() uint32 { return w.key }

// Salt returns the 16 bytes of salt in the file's head.
func (w *Writer) Salt() []byte { return w.head[12:] }

// Write takes p into the file. A chunk is written when more follows it.
func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for len(p) > 0 && w.err == nil {
		if len(w.buf) == ChunkBytes {
			w.flush(false)
			continue
		}
		n := min(len(p), ChunkBytes-len(w.buf))
		w.buf, p, done = append(w.buf, p[:n]...), p[n:], done+n
	}
	return done, w.err
}

// Close writes the last chunk, which may be empty, and marks it so. It does not
// close what is underneath.
func (w *Writer) Close() error {
	if w.err == nil {
		w.flush(true)
		if w.err == nil {
			w.err = errors.New("sealed file is closed")
			return nil
		}
	}
	return w.err
}

func (w *Writer) flush(last bool) {
	w.out = w.aead.Seal(w.out[:0], nil, w.buf, chunkAAD(w.head, w.n, last))
	w.buf = w.buf[:0]
	w.n++
	if _, err := w.w.Write(w.out); err != nil {
		w.err = fmt.Errorf("seal file: chunk %d: %w", w.n-1, err)
	}
}

// A Reader opens a sealed file. It gives out no byte of a chunk that does not
// open, and io.EOF only after the chunk that is marked last.
type Reader struct {
	r     *bufio.Reader
	aead  cipher.AEAD
	head  []byte
	chunk []byte
	plain []byte
	rest  []byte
	n     uint64
	err   error
}

// NewReader reads the head of a sealed file from r. The errors are those of
// Opener.Open.
func NewReader(r io.Reader, ring *Ring, place Place) (*Reader, error) {
	head := make([]byte, HeaderBytes)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("open sealed file: its head: %w", errors.Join(ErrTampered, err))
	}
	if string(head[:7]) != fileMagic {
		return nil, fmt.Errorf("open sealed file: it does not begin with %q: %w", fileMagic, ErrTampered)
	}
	if head[7] != fileFormat {
		return nil, fmt.Errorf("open sealed file: format %d, this version knows %d; run the version that wrote it: %w", head[7], fileFormat, errdefs.ErrNotImplemented)
	}
	num := binary.BigEndian.Uint32(head[8:])
	key, ok := ring.Key(num)
	if !ok {
		return nil, fmt.Errorf("open sealed file: data key %d: %w", num, ErrUnknownKey)
	}
	aead, err := derive(key, head[12:], place.info())
	if err != nil {
		return nil, fmt.Errorf("open sealed file: %w", err)
	}
	size := ChunkBytes + overhead
	return &Reader{r: bufio.NewReaderSize(r, size+1), aead: aead, head: head, chunk: make([]byte, size), plain: make([]byte, 0, ChunkBytes)}, nil
}

// Read gives out plaintext.
func (r *Reader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		r.next()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// next opens the next chunk: the last one is where the file ends.
func (r *Reader) next() {
	n, err := io.ReadFull(r.r, r.chunk)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		r.err = fmt.Errorf("open sealed file: chunk %d: %w", r.n, err)
		return
	}
	_, more := r.r.Peek(1)
	last := errors.Is(more, io.EOF)
	r.plain, err = r.aead.Open(r.plain[:0], nil, r.chunk[:n], chunkAAD(r.head, r.n, last))
	if err != nil {
		r.err = fmt.Errorf("open sealed file: chunk %d: %w", r.n, ErrTampered)
		return
	}
	r.rest = r.plain
	r.n++
	if last {
		r.err = io.EOF
	}
}

func chunkAAD(head []byte, n uint64, last bool) []byte {
	aad := make([]byte, len(head), len(head)+9)
	copy(aad, head)
	aad = binary.BigEndian.AppendUint64(aad, n)
	if last {
		return append(aad, 1)
	}
	return append(aad, 0)
}
