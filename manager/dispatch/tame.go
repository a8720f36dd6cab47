package dispatch

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What a node may say of itself and of its tasks. It goes into the log and onto the
// terminals of operators, so a node that was taken over could fill the one and write
// on the other.
const (
	maxName   = 253 // a hostname's; of an address, a version, a label
	maxReason = 1 << 10
	maxLabels = 64
	maxDigest = 64
	maxBoot   = 64
	// maxReports is more than an agent puts into one message.
	maxReports = 5000
)

// tame checks a message of a node and cuts what is said in it to what is let through:
// printable, short, and nothing that this version does not know.
func tame(req *dispatchv1.SessionRequest) error {
	if n := len(req.GetOpen().GetHello().GetBoot()); n > maxBoot {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "boot id of %d bytes, at most %d", n, maxBoot)
	}
	if n := len(req.GetReports().GetReports()); n > maxReports {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "%d reports in one message, at most %d", n, maxReports)
	}
	if f := req.GetFarewell(); modelv1.Farewell_name[int32(f)] == "" {
		return rpc.Errorf(errdefs.ErrInvalidArgument, "farewell %d: this version knows none of that number", f)
	}
	if d := req.GetDescription(); d != nil {
		req.Description = tameDescription(d)
	}
	for _, r := range req.GetReports().GetReports() {
		if r.GetStatus() == nil {
			continue // it says nothing
		}
		if state := r.GetStatus().GetState(); modelv1.TaskState_name[int32(state)] == "" {
			return rpc.Errorf(errdefs.ErrInvalidArgument, "a task in state %d: this version knows none of that number", state)
		}
		r.Status = tameStatus(r.GetStatus())
	}
	return nil
}

func tameDescription(d *modelv1.NodeDescription) *modelv1.NodeDescription {
	out := &modelv1.NodeDescription{
		Hostname: oneLine(d.GetHostname(), maxName), Os: oneLine(d.GetOs(), maxName), Architecture: oneLine(d.GetArchitecture(), maxName),
		Version: oneLine(d.GetVersion(), maxName), Address: oneLine(d.GetAddress(), maxName), Runtime: oneLine(d.GetRuntime(), maxName),
		Fips: d.GetFips(), Trusts: d.GetTrusts()[:min(maxDigest, len(d.GetTrusts()))],
	}
	if r := d.GetResources(); r != nil {
		out.Resources = &modelv1.Resources{NanoCpus: r.GetNanoCpus(), MemoryBytes: r.GetMemoryBytes()}
	}
	var names []string
	for name := range d.GetEngineLabels() {
		names = append(names, name)
	}
	slices.Sort(names) // so that the same ones stay
	for _, name := range names[:min(maxLabels, len(names))] {
		if out.EngineLabels == nil {
			out.EngineLabels = map[string]string{}
		}
		out.EngineLabels[oneLine(name, maxName)] = oneLine(d.GetEngineLabels()[name], maxName)
	}
	return out
}

func tameStatus(s *modelv1.TaskStatus) *modelv1.TaskStatus {
	return &modelv1.TaskStatus{
		State: s.GetState(), At: s.GetAt(), AgentAt: s.GetAgentAt(), ExitCode: s.ExitCode,
		Error: oneLine(s.GetError(), maxReason),
	}
}

// oneLine is text as one line that can be printed, of so many bytes at most; what was
// left out shows.
func oneLine(text string, most int) string {
	const more = "…"
	if len(text) > most {
		cut := most - len(more)
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + more
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '?' // no longer than what it stands for
	}, text)
}
