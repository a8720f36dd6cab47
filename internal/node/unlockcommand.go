package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/skep-project/skep/internal/sealed"
)

const (
	// unlockTime bounds one run of the unlock command, with all it started, and
	// unlockLinger is how long its output is waited for after that.
	unlockTime   = 30 * time.Second
	unlockLinger = time.Second
	// The rests between runs that brought nothing: the first, doubled up to the last.
	unlockRest    = 5 * time.Second
	unlockMaxRest = 5 * time.Minute
	// maxUnlockWords bounds what is told of the command's error output.
	maxUnlockWords = 200
)

// askCommand runs the unlock command until it prints a key that is one, and hands
// that over; then again after a rest, for if that key was right nobody asks any
// more. It returns when ctx ends.
func (n *Node) askCommand(ctx context.Context, told chan<- sealed.Secret) {
	for rest := unlockRest; ; rest = min(2*rest, unlockMaxRest) {
		key, err := runUnlockCommand(ctx, n.cfg.UnlockCommand, n.cfg.UnlockEnv)
		if err == nil {
			select {
			case told <- key:
			case <-ctx.Done():
				return
			}
		} else if ctx.Err() == nil {
			n.cfg.Log.LogAttrs(ctx, slog.LevelError, `the unlock command brought no key; it is run again, and "ctl swarm unlock" works meanwhile`,
				slog.Any("err", err), slog.Duration("again_in", rest))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rest):
		}
	}
}

// runUnlockCommand returns what a command line of the shell prints, if that is an
// unlock key. It is given no input, and no environment but env. No error quotes what
// it printed.
func runUnlockCommand(ctx context.Context, line string, env []string) (sealed.Secret, error) {
	ctx, stop := context.WithTimeout(ctx, unlockTime)
	defer stop()
	out, words := &bounded{max: sealed.MaxUnlockText, strict: true}, &bounded{max: 4 << 10}
	defer clear(out.b)
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", line) //nolint:gosec // the operator's own command line
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = env, "/", out, words, unlockLinger
	if cmd.Env == nil {
		cmd.Env = []string{} // nil would be the daemon's own
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err := cmd.Run()
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return sealed.Secret{}, fmt.Errorf("unlock command: no answer within %v%s", unlockTime, words.said())
	case out.over:
		return sealed.Secret{}, fmt.Errorf("unlock command: it prints more than %d bytes; want the key and nothing else", out.max)
	case err != nil:
		return sealed.Secret{}, fmt.Errorf("unlock command: %w%s", err, words.said())
	}
	key := sealed.NewSecret(out.b)
	if _, err := sealed.ParseUnlockKey(key); err != nil {
		return sealed.Secret{}, fmt.Errorf("unlock command: what it prints is no unlock key: %w%s", err, words.said())
	}
	return key, nil
}

// bounded takes in max bytes and notes whether there were more.
type bounded struct {
	b    []byte
	max  int
	over bool
	// strict: more is an error, which closes the pipe and so ends who writes.
	strict bool
}

// Write takes in what fits.
func (w *bounded) Write(p []byte) (int, error) {
	fits := min(len(p), w.max-len(w.b))
	w.b = append(w.b, p[:fits]...)
	if w.over = w.over || fits < len(p); w.over && w.strict {
		return fits, io.ErrShortWrite
	}
	return len(p), nil
}

// said is the last line of a command's error output, to be put behind an error;
// nothing if it looks like the key.
func (w *bounded) said() string {
	text := strings.ToValidUTF8(string(bytes.TrimSpace(w.b)), "?")
	line := text[strings.LastIndexByte(text, '\n')+1:]
	if line == "" || bytes.Contains(bytes.ToUpper(w.b), []byte("SKEPKEY")) {
		return ""
	}
	if len(line) > maxUnlockWords {
		line = strings.ToValidUTF8(line[:maxUnlockWords], "") + "…"
	}
	return ": it said " + fmt.Sprintf("%q", line)
}
