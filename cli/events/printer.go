package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/template"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/cli/show"
)

// A printer writes events: as lines for people, as JSON, or by a template.
type printer struct {
	json bool
	tpl  *template.Template
}

// newPrinter reads the format, and tries a template before anything happens.
func newPrinter(format string) (*printer, error) {
	p := &printer{json: format == "json"}
	if format == "" || p.json {
		return p, nil
	}
	tpl, err := show.Template(format)
	if err != nil {
		return nil, err
	}
	// An event without an attribute must not end the stream.
	p.tpl = tpl.Option("missingkey=zero")
	return p, p.one(&bytes.Buffer{}, sample)
}

// print writes events in one go.
func (p *printer) print(w io.Writer, events []event) error {
	var b bytes.Buffer
	for _, e := range events {
		if err := p.one(&b, e); err != nil {
			return err
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

func (p *printer) one(b *bytes.Buffer, e event) error {
	switch {
	case p.json:
		j := json.NewEncoder(b)
		j.SetEscapeHTML(false)
		return j.Encode(e)
	case p.tpl != nil:
		if err := p.tpl.Execute(b, e); err != nil {
			return say.Misuse("format: %s", strings.TrimPrefix(err.Error(), "template: :"))
		}
		b.WriteByte('\n')
		return nil
	}
	_, err := fmt.Fprintln(b, e.line())
	return err
}
