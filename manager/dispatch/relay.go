package dispatch

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

// Relay serves another manager's sessions at the leader's desk.
func (s *Server) Relay(stream dispatchv1.Dispatch_RelayServer) error {
	ctx := stream.Context()
	caller, ok := rpc.FromContext(ctx)
	if !ok || caller.Node.IsZero() {
		return rpc.Errorf(errdefs.ErrPermissionDenied, "open relay: caller is not a node")
	}
	d, _ := s.openDesk()
	if d == nil {
		return rpc.Errorf(errdefs.ErrUnavailable, "open relay of manager %s: this manager does not lead", caller.Node)
	}
	l, err := d.connect(caller.Node)
	if err != nil {
		return rpc.Errorf(errdefs.ErrUnavailable, "open relay of manager %s: %v", caller.Node, err)
	}
	defer d.disconnect(l)
	if err := stream.Send(&dispatchv1.RelayResponse{Hello: s.cfg.Hello()}); err != nil {
		return err
	}
	heard := make(chan error, 1)
	go func() { heard <- s.hearRelay(stream, d, l) }() // ends with the stream, which ends when Relay returns
	var told uint64
	for {
		if resp := l.answer(told); resp != nil {
			told = resp.GetSequence()
			if err := stream.Send(resp); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-heard:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-l.wake:
		}
		if d.done() {
			return rpc.Errorf(errdefs.ErrUnavailable, "relay of manager %s: this manager leads no longer", caller.Node)
		}
	}
}

func (s *Server) hearRelay(stream dispatchv1.Dispatch_RelayServer, d *desk, l *line) error {
	for {
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := d.hear(l, req); err != nil {
			return err
		}
	}
}

// roster is the newest manager list, made once for all sessions.
type roster struct {
	mu      sync.Mutex // guards the fields below
	list    *cav1.ManagerList
	changed chan struct{}
}

// get returns the list, nil before there is one, and a channel that is closed
// when another takes its place.
func (r *roster) get() (*cav1.ManagerList, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.list, r.changed
}

// set puts a list in the place of the former if it differs.
func (r *roster) set(list *cav1.ManagerList) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list != nil && sameManagers(r.list, list) {
		return
	}
	r.list = list
	close(r.changed)
	r.changed = make(chan struct{})
}

// keepRoster makes the list anew when members or their certificates change.
func (s *Server) keepRoster(ctx context.Context) error {
	w := s.cfg.Store.Watch(store.Key{Kind: logv1.Kind_KIND_MEMBER},
		store.Key{Kind: logv1.Kind_KIND_NODE}, store.Key{Kind: logv1.Kind_KIND_CLUSTER})
	defer w.Close()
	for {
		w.Take() // only that something changed counts
		if snap := s.cfg.Store.Snapshot(); snap.Cluster() != nil {
			s.managers.set(s.cfg.Managers(snap))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.C():
		}
	}
}

// sameManagers reports whether two lists name the same managers, whatever index
// they were made at.
func sameManagers(a, b *cav1.ManagerList) bool {
	if string(a.GetHistory()) != string(b.GetHistory()) || len(a.GetManagers()) != len(b.GetManagers()) {
		return false
	}
	for i, m := range a.GetManagers() {
		n := b.GetManagers()[i]
		if string(m.GetNode()) != string(n.GetNode()) || m.GetAddress() != n.GetAddress() || len(m.GetKeys()) != len(n.GetKeys()) {
			return false
		}
		for k := range m.GetKeys() {
			if string(m.GetKeys()[k]) != string(n.GetKeys()[k]) {
				return false
			}
		}
	}
	return true
}
