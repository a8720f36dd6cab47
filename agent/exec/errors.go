package exec

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

var (
	// ErrRejected marks what will never succeed on this node: no such image, a
	// mount whose source is missing, a spec without sense. The task's state
	// machine branches on it: the task ends REJECTED and is not tried again.
	ErrRejected = errors.New("rejected")

	// ErrGone says that the container is not there, or that how it ended can
	// no longer be known. The state machine branches on it: a task that was
	// started ends FAILED.
	ErrGone = errors.New("the container is gone")

	// ErrUnavailable says that the runtime does not answer. The state machine
	// branches on it: it tries again for as long as it takes, for a runtime
	// that is down says nothing about its containers.
	ErrUnavailable = fmt.Errorf("the container runtime does not answer: %w", errdefs.ErrUnavailable)
)

// Rejected returns an error that is [ErrRejected] and reads as err does: the
// mark is for the program, the words are for the operator.
func Rejected(err error) error {
	if err == nil {
		return nil
	}
	return rejected{err}
}

type rejected struct{ error }

func (r rejected) Unwrap() error        { return r.error }
func (r rejected) Is(target error) bool { return target == ErrRejected }

// Unavailable reports whether err says that the runtime does not answer,
// as [ErrUnavailable] or in the words of its client.
func Unavailable(err error) bool {
	return errors.Is(err, ErrUnavailable) || errdefs.IsUnavailable(err)
}
