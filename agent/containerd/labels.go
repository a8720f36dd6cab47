package containerd

import (
	"strconv"
	"time"

	"github.com/skep-project/skep/agent/exec"
)

// Labels that remember, for later processes, what a container has been through.
const (
	// labelStarted is set before the process is started: the moment.
	labelStarted = "skep.started"
	// labelBarred is set when the container must never be started any more.
	labelBarred = "skep.barred"
	// labelCode, labelAt and labelOOM say how it ended.
	labelCode = "skep.exit-code"
	labelAt   = "skep.exit-at"
	labelOOM  = "skep.exit-oom"
	// labelSignal is the number of the stop signal; labelGrace the stop grace
	// period. Shutdown reads them when the template is not known any more.
	labelSignal = "skep.stop-signal"
	labelGrace  = "skep.stop-grace"
)

// exitLabels writes an exit down.
func exitLabels(e exec.Exit) map[string]string {
	l := map[string]string{labelCode: strconv.Itoa(int(e.Code)), labelAt: ""}
	if !e.At.IsZero() {
		l[labelAt] = e.At.UTC().Format(time.RFC3339Nano)
	}
	if e.OOM {
		l[labelOOM] = "true"
	}
	return l
}

// exitOf reads the exit written in a container's labels; nil if there is none.
func exitOf(labels map[string]string) *exec.Exit {
	code, err := strconv.ParseInt(labels[labelCode], 10, 32)
	if err != nil {
		return nil
	}
	at, _ := time.Parse(time.RFC3339Nano, labels[labelAt]) // zero if not known
	return &exec.Exit{Code: int32(code), At: at, OOM: labels[labelOOM] == "true"}
}
