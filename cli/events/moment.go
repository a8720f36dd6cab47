package events

import (
	"errors"
	"strconv"
	"strings"
	"time"
)

// A Moment is a time, or the place behind an index.
type Moment struct {
	// At is Unix nanoseconds, at least 1.
	At int64
	// Index counts if Indexed is set, and At does not.
	Index   uint64
	Indexed bool
}

// layouts are the forms of a time; those without a zone are local.
var layouts = []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02"}

// ParseMoment reads an index ("@123"), a time ("2026-03-01T12:00:00Z", Unix
// seconds), or how long before now it was ("10m"; "-10m" is to come).
func ParseMoment(text string, now time.Time) (Moment, error) {
	if digits, ok := strings.CutPrefix(text, "@"); ok {
		index, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return Moment{}, errors.New("want an index behind @, such as @123")
		}
		return Moment{Index: index, Indexed: true}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && text != "0" {
		return at(now.Add(-d))
	}
	for _, layout := range layouts {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return at(t)
		}
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 && seconds < maxSeconds {
		whole := int64(seconds)
		return at(time.Unix(whole, int64((seconds-float64(whole))*1e9)))
	}
	return Moment{}, errors.New("want a time (2026-03-01T12:00:00), how long ago (10m), Unix seconds, or an index (@123)")
}

// maxSeconds is the greatest moment whose nanoseconds are a number.
const maxSeconds = 9e9

func at(t time.Time) (Moment, error) {
	if t.Unix() >= maxSeconds || t.Unix() < 0 {
		return Moment{}, errors.New("want a moment between 1970 and 2255")
	}
	return Moment{At: max(1, t.UnixNano())}, nil
}
