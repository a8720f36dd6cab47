package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/skep-project/skep/cli/show"
	"github.com/skep-project/skep/manager/audit"
)

var table = show.Table{
	Columns: []show.Column{
		{Field: "Seq", Header: "SEQ"}, {Field: "Index", Header: "INDEX"}, {Field: "At", Header: "AT"}, {Field: "Who", Header: "WHO"},
		{Field: "User", Header: "USER"}, {Field: "Did", Header: "DID"}, {Field: "Objects", Header: "OBJECTS"}, {Field: "Result", Header: "RESULT"},
		{Field: "Code", Header: "CODE"}, {Field: "Reason", Header: "REASON"}, {Field: "Count", Header: "COUNT"}, {Field: "From", Header: "FROM"},
		{Field: "On", Header: "ON"}, {Field: "Via", Header: "VIA"}, {Field: "By", Header: "BY"}, {Field: "Request", Header: "REQUEST"},
	},
	Default: []show.Cell{
		{Text: "{{.Seq}}"}, {Text: "{{.At}}"}, {Text: "{{.Who}}", Least: 10}, {Text: "{{.Did}}"},
		{Text: "{{.Objects}}", Least: 12, Gives: 2}, {Text: "{{.Result}}", Least: 8, Gives: 3}, {Text: "{{.From}}", Gives: 1},
	},
	Quiet: "Seq",
}

// row is a record as lists show it; whole says that ids and reasons are not cut.
func row(r *audit.Record, whole bool) show.Row {
	short := func(id string) string {
		if !whole && len(id) > 12 {
			return id[:12]
		}
		return id
	}
	who := r.Who
	if node, ok := strings.CutPrefix(who, "node:"); ok {
		who = "node:" + short(node)
	}
	return show.Row{
		"Seq": r.Seq, "Index": r.Index, "At": r.At.Local().Format("2006-01-02 15:04:05"), "Who": clean(who), "User": r.User, "Did": clean(r.Did),
		"Objects": clean(objects(r, short)), "Result": clean(result(r, whole)), "Code": clean(r.Code), "Reason": clean(r.Reason), "Count": max(1, r.Count),
		"From": clean(from(r, short)), "On": r.On, "Via": r.Via, "By": r.By, "Request": r.Request,
	}
}

// objects is what a record is about.
func objects(r *audit.Record, short func(string) string) string {
	var out []string
	for _, o := range r.Objects {
		name := o.Name
		if name == "" {
			name = short(o.ID)
		}
		if o.Became != "" {
			name += " (" + o.Became + ")"
		}
		out = append(out, o.Kind+" "+name)
	}
	if r.More > 0 {
		out = append(out, fmt.Sprintf("%d more", r.More))
	}
	switch {
	case r.Did == audit.Truncate:
		return fmt.Sprintf("records %d to %d", r.DroppedFrom, r.DroppedTo)
	case r.Seal != nil:
		return fmt.Sprintf("record %d", r.Seal.Seq)
	}
	return strings.Join(out, ", ")
}

// result is how it ended, how often, and why.
func result(r *audit.Record, whole bool) string {
	text := r.Result
	if r.Count > 1 && r.Did != audit.Truncate {
		text += fmt.Sprintf(" %d times since %s", r.Count, r.First.Local().Format(time.TimeOnly))
	}
	why := r.Reason
	if why == "" {
		why = r.Code
	}
	if runes := []rune(why); !whole && len(runes) > 60 {
		why = string(runes[:59]) + "…"
	}
	if why != "" {
		text += ": " + why
	}
	return text
}

// from is where the caller was: the host, or the node whose socket it was, and the
// manager it came through.
func from(r *audit.Record, short func(string) string) string {
	at := r.From
	if r.On != "" {
		at = "socket of " + short(r.On)
	}
	for _, v := range []struct{ word, id string }{{" via ", r.Via}, {" seen by ", r.By}} {
		if v.id != "" {
			at += v.word + short(v.id)
		}
	}
	return strings.TrimSpace(at)
}

// sentence is a record while records are followed.
func sentence(r show.Row) string {
	text := fmt.Sprintf("%v #%v %v %v", r["At"], r["Seq"], r["Who"], r["Did"])
	if o := fmt.Sprint(r["Objects"]); o != "" {
		text += " " + o
	}
	text += " " + fmt.Sprint(r["Result"])
	if f := fmt.Sprint(r["From"]); f != "" {
		text += " (" + f + ")"
	}
	return text
}

// clean keeps what callers wrote from moving the cursor.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}
