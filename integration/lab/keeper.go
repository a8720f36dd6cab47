package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

// config is the lab a keeper keeps.
type config struct {
	Bin      string // directory of ctl, containerd and runc
	Hosts    int
	Managers int // in one swarm; 0 is no swarm
}

// maxHosts is how many a person can look after on one machine.
const maxHosts = 20

// A request is a command line for the keeper; a reply is its end.
type request struct {
	Args []string `json:"args"`
}

type reply struct {
	// Text is for the person.
	Text string `json:"text,omitempty"`
	// Err says why it was not done.
	Err string `json:"err,omitempty"`
	// Door is the way to a host, see lab.Host.Door.
	Door        []string `json:"door,omitempty"`
	Environment []string `json:"environment,omitempty"`
}

// A keeper owns a lab and does what clients ask, one after the other.
type keeper struct {
	lab   *lab.Lab
	hosts []*lab.Host

	mu     sync.Mutex // held while a request is carried out: a lab's hosts take one at a time
	paused map[string]bool
	cuts   map[string]bool // what was cut, in words
	bye    context.CancelFunc
}

// keep raises the lab, calls raised, and serves clients at p until ctx ends or one
// of them says down. It leaves nothing of the lab.
func keep(ctx context.Context, p place, c config, raised func()) (err error) {
	socket, err := net.Listen("unix", p.socket())
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := lab.New(ctx, lab.Config{Bin: c.Bin, Log: log})
	if err != nil {
		return errors.Join(err, socket.Close())
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	k := &keeper{lab: l, paused: map[string]bool{}, cuts: map[string]bool{}, bye: stop}
	// The socket goes last: while it answers, the lab is not gone.
	defer func() { err = errors.Join(err, l.Close(), os.RemoveAll(p.socket())) }()
	if err := k.raise(ctx, c); err != nil {
		return errors.Join(err, socket.Close())
	}
	raised()
	return k.serve(ctx, socket)
}

// serve answers clients until ctx ends.
func (k *keeper) serve(ctx context.Context, socket net.Listener) error {
	if u, ok := socket.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	var clients sync.WaitGroup
	defer clients.Wait()
	defer context.AfterFunc(ctx, func() { _ = socket.Close() })() // Accept returns by that
	for {
		conn, err := socket.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		clients.Go(func() { k.answer(ctx, conn) })
	}
}

// clientPatience bounds a client's request, and its being carried out.
const (
	clientPatience = 5 * time.Second
	doPatience     = 90 * time.Second
)

func (k *keeper) answer(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(clientPatience)) // a connection that takes none is answered all the same
	var req request
	if err := json.NewDecoder(io.LimitReader(conn, 64<<10)).Decode(&req); err != nil || len(req.Args) == 0 {
		return
	}
	ctx, stop := context.WithTimeout(ctx, doPatience)
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	r, err := k.do(ctx, req.Args[0], req.Args[1:])
	if err != nil {
		r.Err = err.Error()
	}
	_ = json.NewEncoder(conn).Encode(r) // a client that went away hears nothing
}

// keepFor is the keeper's own command line: what "up" starts.
func keepFor(ctx context.Context, p place, args []string) error {
	var c config
	if len(args) != 1 || json.Unmarshal([]byte(args[0]), &c) != nil {
		return errUsage
	}
	// The client waits for one word on this pipe, or for its end.
	ready := os.NewFile(3, "ready")
	return keep(ctx, p, c, func() {
		_, _ = ready.WriteString("up") // a client that was interrupted hears nothing
		_ = ready.Close()
	})
}

// host finds a host by its name.
func (k *keeper) host(name string) (*lab.Host, error) {
	for _, h := range k.hosts {
		if h.Name() == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("no host %q: there are %s to %s", name, k.hosts[0].Name(), k.hosts[len(k.hosts)-1].Name())
}

// findBin sets where the programs lie that hosts run, which is beside this one if
// nobody says otherwise, and checks that they do.
func (c *config) findBin() error {
	if c.Bin == "" {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		c.Bin = filepath.Dir(exe)
	}
	for _, name := range []string{"ctl", "containerd", "runc"} {
		if _, err := os.Stat(filepath.Join(c.Bin, name)); err != nil {
			return fmt.Errorf("%s is not in %s: make build runtime", name, c.Bin)
		}
	}
	return nil
}
