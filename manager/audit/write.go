package audit

import (
	"strconv"
	"time"
	"unicode/utf8"
)

// A writer writes the fields of one record. It is its own and not encoding/json,
// whose output may change from one version of Go to the next: the hashes would.
type writer struct{ buf []byte }

func (w *writer) key(name string) {
	if len(w.buf) == 0 {
		w.buf = append(w.buf, '{')
	} else if last := w.buf[len(w.buf)-1]; last != '{' && last != '[' {
		w.buf = append(w.buf, ',')
	}
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, name...)
	w.buf = append(w.buf, '"', ':')
}

func (w *writer) number(name string, n uint64) {
	w.key(name)
	w.buf = strconv.AppendUint(w.buf, n, 10)
}

func (w *writer) count(name string, n uint64) {
	if n > 0 {
		w.number(name, n)
	}
}

// raw writes a value that needs no escape.
func (w *writer) raw(name, value string) {
	w.key(name)
	w.buf = append(w.buf, '"')
	w.buf = append(w.buf, value...)
	w.buf = append(w.buf, '"')
}

func (w *writer) text(name, value string) {
	w.key(name)
	w.quote(Cut(value))
}

func (w *writer) some(name, value string) {
	if value != "" {
		w.text(name, value)
	}
}

func (w *writer) moment(name string, t time.Time) {
	w.key(name)
	w.buf = append(w.buf, '"')
	w.buf = t.UTC().AppendFormat(w.buf, time.RFC3339Nano)
	w.buf = append(w.buf, '"')
}

func (w *writer) objects(list []Object) {
	if len(list) == 0 {
		return
	}
	w.key("objects")
	w.buf = append(w.buf, '[')
	for i, o := range list[:min(len(list), maxObjects)] {
		if i > 0 {
			w.buf = append(w.buf, ',')
		}
		w.buf = append(w.buf, '{')
		w.text("kind", o.Kind)
		w.text("id", o.ID)
		w.some("name", o.Name)
		w.some("became", o.Became)
		w.buf = append(w.buf, '}')
	}
	w.buf = append(w.buf, ']')
}

func (w *writer) seal(s *Seal) {
	w.key("seal")
	w.buf = append(w.buf, '{')
	w.raw("cluster", s.Cluster)
	w.raw("history", s.History)
	w.number("seq", s.Seq)
	w.raw("hash", s.Hash.String())
	w.moment("at", s.At)
	w.raw("root", s.Root.String())
	w.raw("signature", base64Of(s.Signature))
	if len(s.Manager) > 0 {
		w.raw("manager", base64Of(s.Manager))
	}
	w.buf = append(w.buf, '}')
}

const hexDigits = "0123456789abcdef"

// quote writes a string of JSON. What is no letter of UTF-8 becomes the sign for
// that; what moves a terminal's cursor is escaped.
func (w *writer) quote(s string) {
	w.buf = append(w.buf, '"')
	for i := 0; i < len(s); {
		c, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case c == '"' || c == '\\':
			w.buf = append(w.buf, '\\', byte(c))
		case c == utf8.RuneError && n == 1:
			w.buf = append(w.buf, `\ufffd`...)
		case c < ' ' || c >= 0x7f && c < 0xa0 || c == '\u2028' || c == '\u2029':
			w.buf = append(w.buf, '\\', 'u', hexDigits[c>>12&15], hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15])
		default:
			w.buf = append(w.buf, s[i:i+n]...)
		}
		i += n
	}
	w.buf = append(w.buf, '"')
}
