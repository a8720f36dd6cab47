package audit

import (
	"encoding/json"
	"fmt"
	"io"
)

// Format is the version of an export's form.
const Format = 1

// A Head is the first line of an export: whose trail it is, and the certificates
// that were trusted when it was made. Nothing vouches for it but the seal.
type Head struct {
	Format  int      `json:"skep_audit"`
	Cluster string   `json:"cluster"`
	History string   `json:"history"`
	Roots   [][]byte `json:"roots"`
}

// A Foot is the last line of an export.
type Foot struct {
	Export *Seal `json:"export_seal"`
}

// An Export writes the lines of one.
type Export struct {
	w   io.Writer
	err error
}

// NewExport begins an export with its first line.
func NewExport(w io.Writer, h Head) *Export {
	e := &Export{w: w}
	h.Format = Format
	e.json(h)
	return e
}

// Line adds a record.
func (e *Export) Line(line []byte) {
	if e.err != nil {
		return
	}
	_, e.err = fmt.Fprintf(e.w, "%s\n", line)
}

// End adds the last line and returns the first error there was.
func (e *Export) End(s *Seal) error {
	e.json(Foot{Export: s})
	if e.err != nil {
		return fmt.Errorf("write the export: %w", e.err)
	}
	return nil
}

func (e *Export) json(v any) {
	b, err := json.Marshal(v)
	if e.err == nil {
		e.err = err
	}
	e.Line(b)
}
