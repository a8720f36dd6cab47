// Package agent is the part of every node that runs tasks: it assembles a
// worker, which holds what is assigned, and a session, which speaks with the
// managers, and decides nothing itself.
//
// It needs no manager to go on: what was assigned is journaled, containers run
// while nobody answers, and are adopted when the agent comes back.
//
// Invariant: when Run ends, for whatever reason, the containers are left as
// they are. What becomes of the node's tasks is what the farewell said.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/agent/exec"
	"github.com/skep-project/skep/agent/session"
	"github.com/skep-project/skep/agent/worker"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// describePeriod is how often the runtime is asked what the host has,
// describePatience how long it may take to say, and describeAgain how long
// after it did not it is asked again.
const (
	describePeriod   = time.Minute
	describePatience = 5 * time.Second
	describeAgain    = 3 * time.Second
)

// Config configures an Agent.
type Config struct {
	// Cluster and Node are who this is. Required.
	Cluster, Node id.ID
	// Runtime runs the containers. Required.
	Runtime exec.Runtime
	// StateDir is the agent's own directory; it is made if it is missing.
	// Required.
	StateDir string
	// KEK seals the journal. Required.
	KEK sealed.Secret
	// Dial returns a connection to a manager, which the agent closes. It
	// proves that it is that manager (R15), with keepalive. Required.
	Dial func(ctx context.Context, manager *cav1.Manager) (*grpc.ClientConn, error)
	// Managers is the list the node holds, as it was enrolled or last told;
	// the journal's is used if it is newer. Required on the first start.
	Managers *cav1.ManagerList
	// Named are managers that the operator named, dialled besides those of the
	// list until a newer list is taken. May be nil.
	Named []*cav1.Manager
	// Hello says version, feature level, boot and incarnation; cluster, node
	// and history are filled in, and an incarnation is drawn if it has none.
	// Required.
	Hello *rpcv1.Hello
	// Description is what the runtime cannot know: hostname, address, version,
	// engine labels. What it says goes before what the runtime says.
	Description *modelv1.NodeDescription
	// OnWish is given what the node's record wants of it. It must not block.
	OnWish func(*dispatchv1.Wish)
	// OnRevoked is told, in a manager's words, that this node is no longer one
	// of the cluster. It must not block.
	OnRevoked func(words string)
	// OnManagers is given each newer list of managers. It must not block.
	OnManagers func(*cav1.ManagerList)
	// Relist is the period of comparing what runs with what should. Zero
	// means 30s.
	Relist time.Duration
	// Log receives the agent's records. Required.
	Log *slog.Logger
}

// check reports all faults of a configuration at once.
func (c Config) check() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("agent: %s is missing", what))
		}
	}
	need(!c.Cluster.IsZero(), "the cluster's id")
	need(!c.Node.IsZero(), "the node's id")
	need(c.Runtime != nil, "the runtime")
	need(c.StateDir != "", "the state directory")
	need(!c.KEK.IsZero(), "the key-encryption key")
	need(c.Dial != nil, "dial")
	need(c.Hello != nil, "hello")
	need(c.Log != nil, "the log")
	return errors.Join(errs...)
}

// An Agent runs a node's tasks. Its methods may be called from any goroutine.
type Agent struct {
	cfg Config

	mu      sync.Mutex // guards the fields below; held for memory only
	worker  *worker.Worker
	session *session.Client
	trusts  []byte // see Trusts

	changed chan struct{} // capacity 1: the description is to be made anew

	// sealing guards cfg.KEK and journal, which is nil while none is open. It is
	// held while the journal is opened or sealed anew: neither may see half of it.
	sealing sync.Mutex
	journal *worker.Journal
}

// New returns an agent; Run runs it.
func New(cfg Config) (*Agent, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	hello := proto.CloneOf(cfg.Hello)
	hello.Cluster, hello.Node = cfg.Cluster.Bytes(), cfg.Node.Bytes()
	if len(hello.Incarnation) == 0 {
		hello.Incarnation = id.New().Bytes()
	}
	cfg.Hello = hello
	return &Agent{cfg: cfg, changed: make(chan struct{}, 1)}, nil
}

// Run runs the node's tasks until ctx ends, or until its journal cannot be
// opened. When it returns, nothing of it is left running but the containers.
func (a *Agent) Run(ctx context.Context) (err error) {
	journal, err := a.openJournal()
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer func() {
		a.letGo()
		if cerr := journal.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("agent: close the journal: %w", cerr)
		}
	}()
	w, s, err := a.assemble(journal)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer a.assembled(nil, nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return named("worker", w.Run(ctx)) })
	g.Go(func() error { return named("session", s.Run(ctx)) })
	g.Go(func() error { a.describe(ctx, s); return nil })
	return g.Wait()
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("agent: %s: %w", what, err)
	}
	return nil
}

func (a *Agent) openJournal() (j *worker.Journal, err error) {
	a.sealing.Lock()
	defer a.sealing.Unlock()
	if err := os.MkdirAll(a.cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	dir, err := os.OpenRoot(a.cfg.StateDir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	defer dir.Close() //nolint:errcheck // opened files outlive it
	a.journal, err = worker.OpenJournal(dir, a.cfg.KEK, a.cfg.Cluster, a.cfg.Node)
	return a.journal, err
}

// assemble joins worker and session.
func (a *Agent) assemble(journal *worker.Journal) (*worker.Worker, *session.Client, error) {
	var s *session.Client
	w, err := worker.New(worker.Config{
		Cluster: a.cfg.Cluster, Node: a.cfg.Node, Hostname: a.cfg.Description.GetHostname(),
		Runtime: a.cfg.Runtime, Journal: journal, Relist: a.cfg.Relist, Log: a.cfg.Log,
		Report: func(task id.ID, status *modelv1.TaskStatus) { s.Report(task, status) },
	})
	if err != nil {
		return nil, nil, err
	}
	if a.cfg.Managers != nil {
		if _, err := w.KeepManagers(a.cfg.Managers); err != nil {
			return nil, nil, err
		}
	}
	s, err = session.New(session.Config{
		Worker: w, Dial: a.cfg.Dial, Named: a.cfg.Named, Hello: a.cfg.Hello,
		OnWish: a.cfg.OnWish, OnRevoked: a.cfg.OnRevoked, OnManagers: a.cfg.OnManagers, Log: a.cfg.Log,
	})
	if err != nil {
		return nil, nil, err
	}
	a.assembled(w, s)
	return w, s, nil
}

func (a *Agent) assembled(w *worker.Worker, s *session.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.worker, a.session = w, s
}

func (a *Agent) parts() (*worker.Worker, *session.Client) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.worker, a.session
}

// Trusts says the digest of the roots that the node trusts, for the managers to
// know: now, if they have heard another. It never blocks.
func (a *Agent) Trusts(digest []byte) {
	a.mu.Lock()
	a.trusts = digest
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default: // it is said with what waits to be said
	}
}

// trust is what Trusts was told last.
func (a *Agent) trust() []byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.trusts
}

// describe tells the managers what the node is and has, now and when it
// changes. While the runtime has never answered the node has no resources to
// give; later, what it said last holds.
func (a *Agent) describe(ctx context.Context, s *session.Client) {
	has, silent := &modelv1.NodeDescription{}, false
	for {
		wait := describePeriod
		found, err := a.has(ctx)
		switch {
		case err == nil:
			has, silent = found, false
		case ctx.Err() != nil:
			return
		default:
			wait = describeAgain
			level := slog.LevelWarn
			if silent {
				level = slog.LevelDebug // it was said, and nothing has changed
			}
			silent = true
			a.cfg.Log.LogAttrs(ctx, level, "the runtime does not say what the host has; it is asked on", slog.Any("err", err))
		}
		a.say(s, has)
		if !a.retell(ctx, s, has, wait) {
			return
		}
	}
}

// say describes a node whose host has what it has.
func (a *Agent) say(s *session.Client, has *modelv1.NodeDescription) {
	d := proto.CloneOf(has)
	if a.cfg.Description != nil {
		proto.Merge(d, a.cfg.Description)
	}
	d.Trusts = a.trust()
	s.Describe(d)
}

// retell says anew what does not come from the runtime when it changes, for as long
// as wait; false if ctx ends.
func (a *Agent) retell(ctx context.Context, s *session.Client, has *modelv1.NodeDescription, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-a.changed:
			a.say(s, has)
		}
	}
}

// has asks the runtime what the host has.
func (a *Agent) has(ctx context.Context) (*modelv1.NodeDescription, error) {
	ctx, stop := context.WithTimeout(ctx, describePatience)
	defer stop()
	return a.cfg.Runtime.Describe(ctx)
}

// Farewell tells a manager why this node's session ends: before Run's context
// is ended, and within ctx. No session is opened after it.
func (a *Agent) Farewell(ctx context.Context, kind modelv1.Farewell) error {
	_, s := a.parts()
	if s == nil {
		return fmt.Errorf("say farewell: %w", session.ErrNoSession)
	}
	if err := s.Farewell(ctx, kind); err != nil {
		return fmt.Errorf("say farewell: %w", err)
	}
	return nil
}

// Renewed says that the node has another certificate, which connections made from
// now on show: the session is moved to such a one without a gap.
func (a *Agent) Renewed() {
	if _, s := a.parts(); s != nil {
		s.Renewed()
	}
}

// Status is how the agent stands.
type Status struct {
	// Session says to which manager it is connected.
	Session session.Status
	// Running counts the running tasks.
	Running int
	// History and Index are the highest obeyed.
	History id.ID
	Index   uint64
	// Managers is the newest list of managers.
	Managers *cav1.ManagerList
}

// Status returns how the agent stands; zero while it does not run.
func (a *Agent) Status() Status {
	w, s := a.parts()
	if w == nil || s == nil {
		return Status{}
	}
	history, index := w.Position()
	return Status{Session: s.Status(), Running: w.Running(), History: history, Index: index, Managers: w.Managers()}
}
