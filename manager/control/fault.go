package control

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
)

// faults collects what is wrong with a request, so that all of it is said at once.
type faults []string

// check notes the fault unless ok.
func (f *faults) check(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Sprintf(format, args...))
	}
}

// wrong notes err, if there is one, as the fault of what.
func (f *faults) wrong(what string, err error) {
	if err != nil {
		f.check(false, "%s: %v", what, err)
	}
}

// refusal returns the faults of the thing as one error; nil if there are none.
func (f faults) refusal(thing string) error {
	if len(f) == 0 {
		return nil
	}
	return rpc.Errorf(errdefs.ErrInvalidArgument, "%s: %s", thing, strings.Join(f, "; "))
}
