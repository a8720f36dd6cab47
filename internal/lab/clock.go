package lab

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The kernel has no namespace for the time of day. A Go program however reads
// it from code that the kernel maps into each process, the vDSO. That mapping
// is the process's own once somebody has written to it: so the clock of one
// process can be stepped and no other's.

// clockAsk is the function that a Go program reads both its clocks with.
const clockAsk = "__vdso_clock_gettime"

// stopTime bounds the wait for the threads of a process to stand still.
const stopTime = 5 * time.Second

// stopTries is how many looks, a millisecond apart, threads have to come to a stand
// before they are let go and stopped anew.
const stopTries = 20

// steppedClock is what clockAsk becomes: it asks the kernel, and adds the
// seconds behind it to the time of day. What it asks of other clocks, the
// monotonic above all, is answered as it was. The last eight bytes are the
// seconds, which the instruction before "ret" finds by its distance to them.
var steppedClock = []byte{
	0xb8, byte(unix.SYS_CLOCK_GETTIME & 0xff), 0, 0, 0, // mov  eax, SYS_clock_gettime
	0x0f, 0x05, // syscall
	0x85, 0xc0, // test eax, eax
	0x75, 0x13, // jne  ret
	0x85, 0xff, // test edi, edi: CLOCK_REALTIME
	0x74, 0x05, // je   add
	0x83, 0xff, 0x05, // cmp  edi, CLOCK_REALTIME_COARSE
	0x75, 0x0a, // jne  ret
	0x48, 0x8b, 0x0d, 0x04, 0, 0, 0, // add: mov rcx, seconds
	0x48, 0x01, 0x0e, // add  [rsi], rcx
	0xc3,                   // ret
	0, 0, 0, 0, 0, 0, 0, 0, // seconds
}

const secondsBytes = 8

// StepClock sets the time of day that the host's daemon reads d off the
// machine's, ahead or (d < 0) behind, in whole seconds; 0 sets it right. It is
// not added to an earlier step. Its monotonic clock goes on as it was, and so do
// the clocks of all other processes. A daemon that is started anew has the
// machine's time.
func (h *Host) StepClock(ctx context.Context, d time.Duration) error {
	if !h.DaemonRuns() {
		return fmt.Errorf("lab: step the clock of %s: its daemon does not run", h.name)
	}
	return h.daemon.StepClock(ctx, d)
}

// StepClock is Host's for any process, which must be a program of Go, or another
// that reads the time by the vDSO, on amd64.
func (p *Proc) StepClock(ctx context.Context, d time.Duration) error {
	if err := p.stepClock(ctx, d); err != nil {
		return fmt.Errorf("lab: step the clock of %s on %s: %w", p.argv[0], p.host.name, err)
	}
	return nil
}

func (p *Proc) stepClock(ctx context.Context, d time.Duration) (err error) {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("not on %s: the code that is put in its place is written for amd64 only: %w", runtime.GOARCH, errors.ErrUnsupported)
	}
	if d%time.Second != 0 {
		return fmt.Errorf("by %v: want whole seconds", d)
	}
	dir := p.host.Inside("/proc/" + strconv.Itoa(p.pid))
	if dir == "" {
		return errDark
	}
	if err := p.Signal(ctx, syscall.SIGSTOP); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, p.Signal(context.WithoutCancel(ctx), syscall.SIGCONT))
	}()
	v, err := readVDSO(dir)
	if err != nil {
		return err
	}
	stood, stop := context.WithTimeout(ctx, stopTime)
	defer stop()
	for try := 1; !v.free(dir); try++ {
		select {
		case <-stood.Done():
			return fmt.Errorf("its threads do not stand still outside of %s: %w", clockAsk, stood.Err())
		case <-time.After(time.Millisecond):
		}
		if try%stopTries == 0 { // one was stopped in the middle of it, and stays there
			if err := errors.Join(p.Signal(ctx, syscall.SIGCONT), p.Signal(ctx, syscall.SIGSTOP)); err != nil {
				return err
			}
		}
	}
	return v.step(dir, int64(d/time.Second))
}

// A vdso is the code that the kernel mapped into a process.
type vdso struct {
	at   uint64 // where in the process
	code []byte
}

func readVDSO(proc string) (vdso, error) {
	maps, err := os.ReadFile(filepath.Join(proc, "maps"))
	if err != nil {
		return vdso{}, err
	}
	from, to, err := findVDSO(string(maps))
	if err != nil {
		return vdso{}, err
	}
	mem, err := os.Open(filepath.Join(proc, "mem"))
	if err != nil {
		return vdso{}, err
	}
	defer mem.Close()
	v := vdso{at: from, code: make([]byte, to-from)}
	_, err = mem.ReadAt(v.code, int64(from))
	return v, err
}

// maxVDSO is more than any kernel's vDSO has; what says that it has more is no
// list of mappings.
const maxVDSO = 1 << 20

// findVDSO finds the vDSO in the list of a process's mappings.
func findVDSO(maps string) (from, to uint64, err error) {
	for line := range strings.Lines(maps) {
		if !strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%x-%x ", &from, &to); err != nil || from >= to || to-from > maxVDSO {
			return 0, 0, fmt.Errorf("a mapping of the vDSO that reads %q", line)
		}
		return from, to, nil
	}
	return 0, 0, errors.New("it has no vDSO")
}

// free reports whether every thread stands still, and none where a step writes:
// at the first bytes of clockAsk.
func (v vdso) free(proc string) bool {
	entry, err := v.entry()
	tasks, rerr := os.ReadDir(filepath.Join(proc, "task"))
	if err != nil || rerr != nil {
		return err != nil // step says what is wrong
	}
	for _, t := range tasks {
		text, err := os.ReadFile(filepath.Join(proc, "task", t.Name(), "syscall"))
		if err != nil {
			return false
		}
		pc, still := standsAt(string(text))
		if !still || pc-v.at-entry < jumpBytes { // unsigned: below it is far above
			return false
		}
	}
	return true
}

// standsAt reads where a thread stands from the kernel's word about its system
// call, whose last field it is; a thread that runs stands nowhere.
func standsAt(text string) (pc uint64, still bool) {
	fields := strings.Fields(text)
	if len(fields) < 3 {
		return 0, false
	}
	pc, err := strconv.ParseUint(fields[len(fields)-1], 0, 64)
	return pc, err == nil
}

// entry is where in the code clockAsk begins.
func (v vdso) entry() (uint64, error) {
	f, err := elf.NewFile(bytes.NewReader(v.code))
	if err != nil {
		return 0, fmt.Errorf("its vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("the symbols of its vDSO: %w", err)
	}
	at := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == clockAsk })
	if at < 0 || symbols[at].Value+jumpBytes > uint64(len(v.code)) || symbols[at].Size < jumpBytes {
		return 0, fmt.Errorf("its vDSO has no %s", clockAsk)
	}
	return symbols[at].Value, nil
}

// jumpBytes is the length of the jump that takes the place of clockAsk's first
// instructions. The rest of it stays, so a thread in its midst comes to its end.
const jumpBytes = 5

const jumpOp = 0xe9 // jmp, by a distance of 32 bits from its end

// room is where the new code goes: the unused end of the last page.
func (v vdso) room() (uint64, error) {
	end := uint64(len(bytes.TrimRight(v.code, "\x00")))
	at := (end + 31) &^ 15 // a zero or two may be the end of what is in use
	if at+uint64(len(steppedClock)) > uint64(len(v.code)) {
		return 0, fmt.Errorf("its vDSO leaves %d bytes unused, want %d", uint64(len(v.code))-end, len(steppedClock))
	}
	return at, nil
}

// stepped finds the new code where an earlier step has put it.
func (v vdso) stepped(entry uint64) (at uint64, ok bool) {
	if v.code[entry] != jumpOp {
		return 0, false
	}
	far := int32(binary.LittleEndian.Uint32(v.code[entry+1:]))
	at = entry + jumpBytes + uint64(int64(far))
	code := steppedClock[:len(steppedClock)-secondsBytes]
	return at, at < uint64(len(v.code)) && bytes.HasPrefix(v.code[at:], code)
}

// step makes the process's time of day that of the kernel and so many seconds.
func (v vdso) step(proc string, seconds int64) error {
	entry, err := v.entry()
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(filepath.Join(proc, "mem"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	at, again := v.stepped(entry)
	if !again {
		if at, err = v.room(); err != nil {
			return err
		}
	}
	code := binary.LittleEndian.AppendUint64(bytes.Clone(steppedClock[:len(steppedClock)-secondsBytes]), uint64(seconds))
	if err := write(mem, code, v.at+at); err != nil || again {
		return err
	}
	jump := binary.LittleEndian.AppendUint32([]byte{jumpOp}, uint32(at-entry-jumpBytes))
	return write(mem, jump, v.at+entry)
}

func write(mem io.WriterAt, code []byte, at uint64) error {
	if _, err := mem.WriteAt(code, int64(at)); err != nil {
		return fmt.Errorf("write its vDSO: %w", err)
	}
	return nil
}
