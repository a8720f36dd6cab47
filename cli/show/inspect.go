package show

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"
)

// Inspect writes objects to w: a JSON array if format is empty or "json", else
// the template once for each. The fields of the template are those of the JSON.
func Inspect[T any](w io.Writer, format string, objects []T) error {
	switch format {
	case "":
		return array(w, objects)
	case "json":
		text, err := toJSON(objects)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, text)
		return err
	}
	tpl, err := Template(format)
	if err != nil {
		return err
	}
	for _, o := range objects {
		text, err := execute(tpl, o)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintln(w, text); err != nil {
			return err
		}
	}
	return nil
}

func array[T any](w io.Writer, objects []T) error {
	if objects == nil {
		objects = []T{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "    ")
	if err := e.Encode(objects); err != nil {
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

// Time returns Unix nanoseconds as the time that inspect prints, nil for none.
func Time(ns int64) *time.Time {
	if ns == 0 {
		return nil
	}
	t := time.Unix(0, ns).UTC()
	return &t
}

// When returns Unix nanoseconds as the pretty form prints them, "" for none.
func When(ns int64) string {
	if ns == 0 {
		return ""
	}
	return time.Unix(0, ns).UTC().Format("2006-01-02 15:04:05.999999999 -0700 MST")
}

// One writes a single value: a line of JSON for "json", else the template.
func One(w io.Writer, format string, value any) error {
	if format == "json" {
		text, err := toJSON(value)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, text)
		return err
	}
	return Inspect(w, format, []any{value})
}

// Objects prints what was found as the flags of InspectFlags say: with --pretty
// for people, each by pretty, else by Inspect.
func Objects[T any](w io.Writer, c *cli.Context, found []T, pretty func(T) *Sheet) error {
	if !c.Bool("pretty") {
		return Inspect(w, c.String("format"), found)
	}
	for _, o := range found {
		if err := pretty(o).Print(w); err != nil {
			return err
		}
	}
	return nil
}
