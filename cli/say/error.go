package say

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// The exit codes of ctl.
const (
	Done        = 0 // what was asked for is done
	Refused     = 1 // it was understood and is not done
	Misused     = 2 // the command line makes no sense
	Unreachable = 3 // nobody answered
	Partly      = 4 // it is done, and some were left behind
	Overdue     = 5 // it goes on, later than it was to be over
)

// An Error is an error that knows how ctl ends and what to do next.
type Error struct {
	// Code is the exit code.
	Code int
	// Hint says what to do next, without a full stop. May be empty.
	Hint string
	// Err is what happened.
	Err error
}

// Error returns what happened.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Misuse returns the error of a command line that makes no sense.
func Misuse(format string, args ...any) error {
	return &Error{Code: Misused, Err: fmt.Errorf(format, args...)}
}

// Path returns a command's full name as errors say it: "node ls".
func Path(helpName string) string { return strings.TrimPrefix(helpName, "ctl ") }

// Missing returns the error of nobody having answered.
func Missing(hint, format string, args ...any) error {
	return &Error{Code: Unreachable, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// Hinted returns err with what to do next; an earlier hint stays.
func Hinted(err error, hint string) error {
	if err == nil || hintIn(err) != "" {
		return err
	}
	return &Error{Code: Code(err), Hint: hint, Err: err}
}

// Code returns the exit code that err means.
func Code(err error) int {
	var e *Error
	switch {
	case err == nil:
		return Done
	case errors.As(err, &e):
		return e.Code
	default:
		return Refused
	}
}

func hintIn(err error) string {
	var e *Error
	for errors.As(err, &e) {
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Err
	}
	return ""
}

// Report prints err as a line and its hint as one more, each of several errors
// for itself, and returns the exit code: the gravest. hintOf finds the hint in an
// error that came over the wire; it may be nil.
func Report(w io.Writer, err error, hintOf func(error) string) int {
	if err == nil {
		return Done
	}
	if list, ok := err.(interface{ Unwrap() []error }); ok {
		code := Done
		for _, e := range list.Unwrap() {
			code = max(code, Report(w, e, hintOf))
		}
		return code
	}
	_, _ = fmt.Fprintln(w, "ctl: "+oneLine(words(err))) // speech: nobody to tell if it is lost
	hint := hintIn(err)
	if hint == "" && hintOf != nil {
		hint = hintOf(err)
	}
	if hint != "" {
		_, _ = fmt.Fprintln(w, "ctl: hint: "+oneLine(hint)) // speech
	}
	return Code(err)
}

// words is err's text, with the bare words of the context package replaced.
func words(err error) string {
	switch {
	case errors.Is(err, context.Canceled) && err.Error() == context.Canceled.Error():
		return "interrupted"
	case errors.Is(err, context.DeadlineExceeded) && err.Error() == context.DeadlineExceeded.Error():
		return "no answer in time"
	}
	return err.Error()
}

// oneLine folds the lines of s into one, for what is joined of several errors.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
