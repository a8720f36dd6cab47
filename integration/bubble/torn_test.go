package bubble

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
)

// copyState makes a copy of a directory, in which zeros at the end of a file take
// no room.
func copyState(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		there := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(there, 0o700)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		used := len(data)
		for zeros := make([]byte, 4096); used > 4096 && bytes.Equal(data[used-4096:used], zeros); used -= 4096 {
		}
		if err := os.WriteFile(there, data[:used], 0o600); err != nil {
			return err
		}
		return os.Truncate(there, int64(len(data)))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// segment is the file that a manager's log is written to, and where in it each
// record begins: each stands behind its length, and the last one's end is the last.
func segment(t *testing.T, state string) (path string, at []int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(state, "raft/wal/*.wal"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no log: %v", err)
	}
	path = slices.Max(names)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := int64(0); ; {
		at = append(at, n)
		length := binary.LittleEndian.Uint64(data[n:])
		if length == 0 {
			return path, at
		}
		n += 8 + int64(length&(1<<56-1)) + int64(length>>56&7)
	}
}

// number is the label that is written, 0 if it is not there.
func (h *host) number() (int, error) {
	ctx, stop := h.c.within(time.Second)
	defer stop()
	resp, err := h.control().GetNode(ctx, &controlv1.GetNodeRequest{Ref: h.id.String()})
	n, _ := strconv.Atoi(resp.GetNode().GetNode().GetSpec().GetLabels()["n"])
	return n, err
}

// setNumber writes the label, and returns how long the log is then.
func (h *host) setNumber(n int) int64 {
	t := h.c.t
	t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	if _, err := h.control().UpdateNode(ctx, &controlv1.UpdateNodeRequest{
		RequestId: requestID(), Ref: h.id.String(), LabelsAdd: map[string]string{"n": strconv.Itoa(n)},
	}); err != nil {
		t.Fatal(err)
	}
	_, at := segment(t, filepath.Join(h.disk, "state"))
	return at[len(at)-1]
}

// TestADaemonWhoseLogIsTornAnywhereComesBackOrSaysWhatToDo tears the log of a
// manager at each of its records. Behind what it acknowledged that is no news; before
// it, it says so if it can know, and has at the least what was acknowledged up to
// there if not.
func TestADaemonWhoseLogIsTornAnywhereComesBackOrSaysWhatToDo(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		m := c.managers(1, nil)[0]
		var ends []int64
		for n := 1; n <= 6; n++ {
			ends = append(ends, m.setNumber(n))
			time.Sleep(300 * time.Millisecond) // the mark is written once a second
		}
		m.kill()
		m.await()
		state, whole := filepath.Join(m.disk, "state"), t.TempDir()
		copyState(t, state, whole)
		_, at := segment(t, whole)
		up, refused := 0, 0
		for i, n := range at {
			if err := os.RemoveAll(state); err != nil {
				t.Fatal(err)
			}
			copyState(t, whole, state)
			what := fmt.Sprintf("torn at record %d of %d", i, len(at)-1)
			tear(t, state, n, i)
			if m.comesBack(what, ends, n) {
				up++
			} else {
				refused++
			}
		}
		t.Logf("of %d torn logs %d came up, %d were refused", len(at), up, refused)
		if up < 2 || refused < 2 {
			t.Errorf("of %d logs %d came up and %d were refused: want some of each", len(at), up, refused)
		}
	})
}

// tear ends a log at byte n: by zeros to the end of its file, by that end, or by
// some of another record.
func tear(t *testing.T, state string, n int64, how int) {
	t.Helper()
	path, _ := segment(t, state)
	info, err := os.Stat(path)
	if err == nil {
		err = os.Truncate(path, n)
	}
	switch {
	case err == nil && how%3 == 0:
		err = os.Truncate(path, info.Size())
	case err == nil && how%3 == 1:
		err = os.WriteFile(path, append(mustRead(t, path), 0x77, 0x77, 0x77), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// comesBack starts a daemon whose log was torn at byte n, and reports whether it
// serves; if not it says what to do.
func (h *host) comesBack(what string, ends []int64, n int64) bool {
	t := h.c.t
	t.Helper()
	acked := 0
	for _, end := range ends {
		if end <= n {
			acked++
		}
	}
	h.start()
	defer func() { h.kill(); h.await() }()
	got, said := 0, ""
	h.c.until(30*time.Second, what+": a word from the daemon", func() bool {
		ctx, stop := h.c.within(time.Second)
		defer stop()
		info, err := h.local().Info(ctx, &localv1.InfoRequest{})
		if said = info.GetError(); err == nil && strings.Contains(said, "must rejoin") {
			return true
		}
		got, err = h.number()
		return err == nil
	})
	if strings.Contains(said, "must rejoin") {
		if acked == len(ends) {
			t.Errorf("%s, behind all that was acknowledged: %s", what, said)
		}
		return false
	}
	if got < acked {
		t.Errorf("%s: it knows write %d, and %d were acknowledged before", what, got, acked)
	}
	return true
}
