package control

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// WatchService shows a service and its tasks, and then what changes of them, until
// the service is gone or the caller is. Each message is of one index, whole; what
// changes while one is being sent is in the next (R13). A manager that loses the
// quorum ends it: another may know better.
func (s *Server) WatchService(msg *controlv1.WatchServiceRequest, stream grpc.ServerStreamingServer[controlv1.WatchServiceResponse]) error {
	v, err := service(s.snapshot(), msg.GetRef())
	if err != nil {
		return err
	}
	x := idOf(v.GetId())
	// Nodes are watched because a task's view says where it runs and since when
	// nobody heard of that place.
	w := s.cfg.DB.Store().Watch(store.Key{Kind: store.KindService, ID: x}, store.KeyTasksOfService(x), store.Key{Kind: store.KindNode})
	defer w.Close()
	snap := s.snapshot()
	resp := everything(snap, x)
	beat := time.NewTicker(contactBeat)
	defer beat.Stop()
	for {
		if resp != nil {
			if err := stream.Send(resp); err != nil || resp.GetRemoved() {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		case <-w.C():
		case <-beat.C:
			if err := s.cfg.Group.Contact(); err != nil {
				return err
			}
			resp = nil
			continue
		}
		changes, reset := w.Take()
		snap = s.snapshot()
		if reset {
			resp = everything(snap, x)
		} else {
			resp = difference(snap, x, changes)
		}
	}
}

// contactBeat is how often a watch sees whether its manager hears the quorum.
const contactBeat = time.Second

// everything is the first message, and the one after a reset.
func everything(snap *store.Snapshot, service id.ID) *controlv1.WatchServiceResponse {
	resp := &controlv1.WatchServiceResponse{Index: snap.Index(), Now: now(snap)}
	v := snap.Service(service)
	if v == nil {
		resp.Removed = true
		return resp
	}
	resp.Service, resp.Complete = serviceView(snap, v, lost(snap)[service]), true
	for t := range snap.TasksByService(service) {
		resp.Tasks = append(resp.Tasks, taskView(snap, t))
	}
	return resp
}

// difference is what the changes mean for a watcher; nil if nothing.
func difference(snap *store.Snapshot, service id.ID, changes []store.Change) *controlv1.WatchServiceResponse {
	resp := &controlv1.WatchServiceResponse{Index: snap.Index(), Now: now(snap)}
	tasks, nodes := make(map[id.ID]bool), make(map[id.ID]bool)
	touched := false
	for _, c := range changes {
		switch c.Kind {
		case store.KindService:
			touched = true
		case store.KindTask:
			tasks[c.ID()] = true
		case store.KindNode:
			nodes[c.ID()] = true
		}
	}
	v := snap.Service(service)
	if v == nil {
		resp.Removed = true
		return resp
	}
	if touched {
		resp.Service = serviceView(snap, v, lost(snap)[service])
	}
	if len(nodes) > 0 {
		for t := range snap.TasksByService(service) {
			if nodes[t.Node] {
				tasks[t.ID] = true
			}
		}
	}
	for x := range tasks {
		if t := snap.Task(x); t != nil {
			resp.Tasks = append(resp.Tasks, taskView(snap, t))
		} else {
			resp.Gone = append(resp.Gone, x.Bytes())
		}
	}
	if !touched && len(tasks) == 0 {
		return nil
	}
	return resp
}
