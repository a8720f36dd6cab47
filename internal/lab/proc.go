package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errDark says that the host has no power.
var errDark = errors.New("the host is dark")

// A Proc is a process that runs, or ran, on a host.
type Proc struct {
	host *Host
	m    *machine
	argv []string
	pid  int
	done chan struct{}
	code int // set before done is closed
}

// Pid is the process's number on its host.
func (p *Proc) Pid() int { return p.pid }

// Done is closed when the process has ended, or its host went dark.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Code is what the process ended with, 128 + n if signal n ended it. It is
// meaningful when Done is closed.
func (p *Proc) Code() int { return p.code }

// Signal sends a signal to the process alone.
func (p *Proc) Signal(ctx context.Context, s syscall.Signal) error {
	_, err := p.m.call(ctx, request{Op: opSignal, Pid: p.pid, Signal: int(s)}, nil)
	if err != nil {
		return fmt.Errorf("lab: signal %s on %s: %w", p.argv[0], p.host.name, err)
	}
	return nil
}

// Wait waits for the end of the process.
func (p *Proc) Wait(ctx context.Context) (code int, err error) {
	select {
	case <-p.done:
		return p.code, nil
	case <-ctx.Done():
		return 0, fmt.Errorf("lab: wait for %s on %s: %w", p.argv[0], p.host.name, context.Cause(ctx))
	}
}

// Spawn starts a command in the background with out as its output and error.
func (h *Host) Spawn(ctx context.Context, out *os.File, argv ...string) (*Proc, error) {
	return h.spawn(ctx, nil, out, out, argv)
}

func (h *Host) spawn(ctx context.Context, in, out, errs *os.File, argv []string) (*Proc, error) {
	m := h.machine
	if m == nil {
		return nil, fmt.Errorf("lab: run %s on %s: %w", argv[0], h.name, errDark)
	}
	if in == nil {
		null, err := os.Open(os.DevNull)
		if err != nil {
			return nil, err
		}
		defer null.Close()
		in = null
	}
	p := &Proc{host: h, m: m, argv: argv, done: make(chan struct{})}
	r, err := m.call(ctx, request{Op: opSpawn, Argv: argv, Env: h.environment()}, p, in, out, errs)
	if err != nil {
		return nil, fmt.Errorf("lab: run %s on %s: %w", argv[0], h.name, err)
	}
	p.pid = r.Pid
	return p, nil
}

// environment is what a command on a host finds: nothing of the lab owner's.
func (h *Host) environment() []string {
	return []string{
		"PATH=" + searchPath, "HOME=/root", "LANG=C.UTF-8", "TERM=dumb",
		"SKEP_BOOT_ID_FILE=" + BootIDFile,
	}
}

// A Result is what became of a command that ran to its end.
type Result struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// Shell runs one line of shell on the host, as a person would type it.
func (h *Host) Shell(ctx context.Context, line string) (Result, error) {
	return h.Exec(ctx, "sh", "-c", line)
}

// Exec runs a command on the host to its end. A command that ends badly is a
// Result, not an error; when ctx ends first the command and what it started
// are killed and the error says so, beside the output so far.
func (h *Host) Exec(ctx context.Context, argv ...string) (Result, error) {
	began := time.Now()
	var out, errs collector
	if err := errors.Join(out.open(), errs.open()); err != nil {
		return Result{}, fmt.Errorf("lab: run %s on %s: %w", argv[0], h.name, err)
	}
	p, err := h.spawn(ctx, nil, out.write, errs.write, argv)
	_, _ = out.write.Close(), errs.write.Close()
	if err != nil {
		_, _ = out.finish(), errs.finish()
		return Result{}, err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		err = fmt.Errorf("lab: %q on %s: %w", strings.Join(argv, " "), h.name, context.Cause(ctx))
		_, _ = p.m.call(context.WithoutCancel(ctx), request{Op: opSignal, Pid: -p.pid, Signal: int(syscall.SIGKILL)}, nil)
		<-p.done
	}
	return Result{Stdout: out.finish(), Stderr: errs.finish(), Code: p.code, Took: time.Since(began)}, err
}

// A collector gathers one output stream.
type collector struct {
	read, write *os.File
	text        bytes.Buffer
	done        chan struct{}
}

func (c *collector) open() (err error) {
	if c.read, c.write, err = os.Pipe(); err != nil {
		return err
	}
	c.done = make(chan struct{})
	go func() {
		defer close(c.done)
		_, _ = io.Copy(&c.text, c.read)
	}()
	return nil
}

// finish returns what was written. A process left behind may hold the stream
// open; it is not waited for.
func (c *collector) finish() string {
	_ = c.read.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	<-c.done
	_ = c.read.Close()
	return c.text.String()
}

// call sends a request and waits for its answer. p, if there is one, is told
// of the end of the process that the request started.
func (m *machine) call(ctx context.Context, r request, p *Proc, streams ...*os.File) (reply, error) {
	answer := make(chan reply, 1)
	m.mu.Lock()
	m.seq++
	r.Seq = m.seq
	m.calls[r.Seq] = answer
	if p != nil {
		m.procs[r.Seq] = p
	}
	m.mu.Unlock()
	got, err := m.exchange(ctx, r, answer, streams)
	if err != nil {
		m.mu.Lock()
		delete(m.calls, r.Seq)
		delete(m.procs, r.Seq)
		m.mu.Unlock()
	}
	return got, err
}

func (m *machine) exchange(ctx context.Context, r request, answer chan reply, streams []*os.File) (reply, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return reply{}, err
	}
	if len(data) > maxPacket {
		return reply{}, fmt.Errorf("the command line has %d bytes; at most %d fit", len(data), maxPacket)
	}
	var rights []byte
	if len(streams) > 0 {
		fds := make([]int, len(streams))
		for i, s := range streams {
			fds[i] = int(s.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	if _, _, err := m.control.WriteMsgUnix(data, rights, nil); err != nil {
		return reply{}, fmt.Errorf("%w (%w)", errDark, err)
	}
	select {
	case got := <-answer:
		if got.Err != "" {
			return got, errors.New(got.Err)
		}
		return got, nil
	case <-m.down:
		return reply{}, errDark
	case <-ctx.Done():
		return reply{}, context.Cause(ctx)
	}
}

// listen hands the init's answers out until the host is dark, and then ends
// every process that was still running. It is the goroutine of a boot;
// powerOff waits for it.
func (m *machine) listen() {
	defer close(m.down)
	buf := make([]byte, maxPacket)
	for {
		n, err := m.control.Read(buf)
		if err != nil || n == 0 {
			break
		}
		var r reply
		if err := json.Unmarshal(buf[:n], &r); err == nil {
			m.deliver(r)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for seq, p := range m.procs {
		delete(m.procs, seq)
		p.end(128 + int(syscall.SIGKILL))
	}
}

func (m *machine) deliver(r reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Ended {
		if p := m.procs[r.Seq]; p != nil {
			delete(m.procs, r.Seq)
			p.end(r.Code)
		}
		return
	}
	if answer := m.calls[r.Seq]; answer != nil {
		delete(m.calls, r.Seq)
		answer <- r // has room for the one answer it gets
	}
}

func (p *Proc) end(code int) {
	p.code = code
	close(p.done)
}
