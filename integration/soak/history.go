package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// A line of a history is one of these: exactly one field is set. Times are
// nanoseconds since the history began, by a clock that nothing steps.
type line struct {
	Op    *op    `json:"op,omitempty"`
	Ran   *ran   `json:"ran,omitempty"`
	Touch *touch `json:"touch,omitempty"`
	End   *end   `json:"end,omitempty"`
}

// An op is what one client did to one register: a label of a node.
type op struct {
	Client int    `json:"client"`
	Key    string `json:"key"` // node/label
	Write  bool   `json:"write,omitempty"`
	Value  string `json:"value"` // written, or read; "" is a label that is not there
	Call   int64  `json:"call"`
	Return int64  `json:"return"`
	// Unknown: it was never learnt whether the write happened. It may happen at
	// any time after the call.
	Unknown bool `json:"unknown,omitempty"`
}

// A ran is one container as the machine saw it: from the first scan that found
// it to the last, and the scan that found it gone.
type ran struct {
	Slot string `json:"slot"` // service.slot, or service.node of a global one
	Task string `json:"task"`
	Host string `json:"host"`
	From int64  `json:"from"`
	To   int64  `json:"to"`
	Gone int64  `json:"gone,omitempty"` // 0: it was still there when the history ended
}

// A touch is a fault that a host felt, until it was mended. What the fault left
// behind is given time after that.
type touch struct {
	Host  string `json:"host"`
	Fault string `json:"fault"`
	Heard bool   `json:"heard,omitempty"` // it is to be heard all the same
	From  int64  `json:"from"`
	To    int64  `json:"to"`
}

// An end closes a history: what came after was not seen.
type end struct {
	At int64 `json:"at"`
}

// A recorder writes a history down as it happens. Its methods may be called by
// several goroutines.
type recorder struct {
	began time.Time

	mu   sync.Mutex // guards what follows; held over a write to the file, which is buffered
	file *os.File
	out  *bufio.Writer
	err  error // the first
	all  history
}

// A history is everything that was recorded.
type history struct {
	ops     []op
	rans    []ran
	touches []touch
	ended   int64
}

func record(path string) (*recorder, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &recorder{began: time.Now(), file: f, out: bufio.NewWriter(f)}, nil
}

// now is the time of the history.
func (r *recorder) now() int64 { return int64(time.Since(r.began)) }

func (r *recorder) put(l line) {
	data, err := json.Marshal(l)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all.add(l)
	if err == nil {
		_, err = r.out.Write(append(data, '\n'))
	}
	r.err = errors.Join(r.err, err)
}

// close returns the history.
func (r *recorder) close() (history, error) {
	return r.all, errors.Join(r.err, r.out.Flush(), r.file.Close())
}

func (h *history) add(l line) {
	switch {
	case l.Op != nil:
		h.ops = append(h.ops, *l.Op)
	case l.Ran != nil:
		h.rans = append(h.rans, *l.Ran)
	case l.Touch != nil:
		h.touches = append(h.touches, *l.Touch)
	case l.End != nil:
		h.ended = l.End.At
	}
}

// load reads a history that was recorded.
func load(in io.Reader) (history, error) {
	var h history
	for d := json.NewDecoder(in); ; {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return h, fmt.Errorf("read a history: %w", err)
		}
		h.add(l)
	}
	if h.ended == 0 {
		return h, errors.New("read a history: it has no end")
	}
	return h, nil
}
