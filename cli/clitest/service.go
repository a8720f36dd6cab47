package clitest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/taskstate"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// CreateService implements the Control service.
func (s *Swarm) CreateService(_ context.Context, q *controlv1.CreateServiceRequest) (*controlv1.CreateServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	if !s.seen[string(q.GetRequestId())] {
		s.seen[string(q.GetRequestId())] = true
		if _, err := s.service(q.GetSpec().GetName()); q.GetSpec().GetName() != "" && err == nil {
			return nil, rpc.Errorf(errdefs.ErrAlreadyExists, "service name %s is taken", q.GetSpec().GetName())
		}
		s.add(q.GetSpec(), q.GetTemplate())
		s.Auth = q.GetRegistryAuth()
	}
	// A planned failure comes after the fact: the answer was lost on its way.
	return &controlv1.CreateServiceResponse{Id: ID(q.GetSpec().GetName())}, s.fail("CreateService")
}

// Add puts a service with running tasks in, before the swarm serves.
func (s *Swarm) Add(spec *modelv1.ServiceSpec, t *modelv1.TaskTemplate) *controlv1.ServiceView {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(spec, t)
}

func (s *Swarm) add(spec *modelv1.ServiceSpec, t *modelv1.TaskTemplate) *controlv1.ServiceView {
	s.index++
	v := &controlv1.ServiceView{Service: &modelv1.Service{
		Meta: &modelv1.Meta{Version: s.index, CreatedIndex: s.index, CreatedAt: Ago(time.Minute), UpdatedAt: Ago(time.Minute)},
		Id:   ID(spec.GetName()), Spec: spec, Current: 1, Target: 1, LastRevision: 1}, Template: t}
	s.Services = append(s.Services, v)
	s.fill(v)
	s.wake()
	return v
}

// fill gives every slot of v a task of the target revision and ends the others.
func (s *Swarm) fill(v *controlv1.ServiceView) {
	state := taskstate.Running
	if s.Idle {
		state = taskstate.Pending
	}
	want := int(v.Service.Spec.GetReplicated().GetReplicas())
	have := map[uint64]bool{}
	for _, t := range s.Tasks {
		if string(t.Task.Service) != string(v.Service.Id) || t.Task.Desired > taskstate.Running {
			continue
		}
		if t.Task.Revision == v.Service.Target && t.Task.Slot <= uint64(want) {
			have[t.Task.Slot] = true
			continue
		}
		t.Task.Desired, t.Task.Status = taskstate.Shutdown, &modelv1.TaskStatus{State: taskstate.Shutdown, At: Ago(0)}
	}
	for slot := uint64(1); slot <= uint64(want); slot++ {
		if have[slot] {
			continue
		}
		s.index++
		n := s.Nodes[int(slot-1)%len(s.Nodes)].Node
		s.Tasks = append(s.Tasks, &controlv1.TaskView{
			Task: &modelv1.Task{Id: ID(fmt.Sprint(v.Service.Spec.Name, slot, v.Service.Target)), Service: v.Service.Id, Revision: v.Service.Target,
				Slot: slot, Node: n.Id, Desired: taskstate.Running, CreatedIndex: s.index, CreatedAt: Ago(time.Minute),
				Status: &modelv1.TaskStatus{State: state, At: Ago(53 * time.Second)}},
			ServiceName: v.Service.Spec.Name, NodeName: n.Description.Hostname, Image: v.Template.GetContainer().GetImage()})
	}
	v.Running, v.Desired = uint64(want), uint64(want)
}

// ListServices implements the Control service.
func (s *Swarm) ListServices(context.Context, *controlv1.ListServicesRequest) (*controlv1.ListServicesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &controlv1.ListServicesResponse{}
	for _, v := range s.Services {
		resp.Services = append(resp.Services, proto.CloneOf(v))
	}
	return resp, s.fail("ListServices")
}

// GetService implements the Control service.
func (s *Swarm) GetService(_ context.Context, q *controlv1.GetServiceRequest) (*controlv1.GetServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.service(q.GetRef())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetServiceResponse{Service: proto.CloneOf(v)}, s.fail("GetService")
}

// UpdateService implements the Control service. An update is over at once.
func (s *Swarm) UpdateService(_ context.Context, q *controlv1.UpdateServiceRequest) (*controlv1.UpdateServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("UpdateService"); err != nil {
		return nil, err
	}
	v, err := s.service(q.GetRef())
	if err != nil {
		return nil, err
	}
	svc := v.Service
	s.Auth = q.GetRegistryAuth()
	switch {
	case q.GetVersion() != svc.Meta.Version:
		return nil, rpc.Errorf(errdefs.ErrAborted, "update out of sequence")
	case q.GetRollback() && svc.Previous == 0:
		return nil, rpc.Errorf(errdefs.ErrFailedPrecondition, "service %s has no previous revision", q.GetRef())
	case q.GetRollback():
		v.Template, v.PreviousTemplate = v.PreviousTemplate, v.Template
		svc.Current, svc.Previous = svc.Previous, svc.Current
		svc.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_ROLLBACK_COMPLETED, Message: "rollback completed"}
	default:
		svc.Spec = q.GetSpec()
		if q.GetTemplate() != nil {
			svc.LastRevision++
			svc.Previous, svc.Current = svc.Current, svc.LastRevision
			v.PreviousTemplate, v.Template = v.Template, q.GetTemplate()
			svc.Update = &modelv1.UpdateStatus{State: modelv1.UpdateState_UPDATE_STATE_COMPLETED, Message: "update completed",
				StartedAt: Ago(time.Minute), CompletedAt: Ago(30 * time.Second)}
		}
	}
	svc.Target = svc.Current
	s.fill(v)
	s.wake()
	svc.Meta.Version = s.index
	return &controlv1.UpdateServiceResponse{Id: svc.Id, Version: s.index}, nil
}

// RemoveService implements the Control service.
func (s *Swarm) RemoveService(_ context.Context, q *controlv1.RemoveServiceRequest) (*controlv1.RemoveServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, err := s.service(q.GetRef())
	if err != nil {
		return nil, err
	}
	s.Services = slices.DeleteFunc(s.Services, func(o *controlv1.ServiceView) bool { return o == v })
	s.Tasks = slices.DeleteFunc(s.Tasks, func(t *controlv1.TaskView) bool { return string(t.Task.Service) == string(v.Service.Id) })
	s.wake()
	return &controlv1.RemoveServiceResponse{Id: v.Service.Id}, s.fail("RemoveService")
}

// ListTasks implements the Control service; it filters by service and node.
func (s *Swarm) ListTasks(_ context.Context, q *controlv1.ListTasksRequest) (*controlv1.ListTasksResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &controlv1.ListTasksResponse{Now: Epoch.UnixNano()}
	for _, t := range s.Tasks {
		if among(q.GetFilter().GetServices(), t.Task.Service) && among(q.GetFilter().GetNodes(), t.Task.Node) {
			resp.Tasks = append(resp.Tasks, proto.CloneOf(t))
		}
	}
	return resp, s.fail("ListTasks")
}

// WatchService implements the Control service: everything at once, and all of it
// again whenever something changed.
func (s *Swarm) WatchService(q *controlv1.WatchServiceRequest, stream grpc.ServerStreamingServer[controlv1.WatchServiceResponse]) error {
	for {
		m, changed, err := s.look(q.GetRef())
		if err != nil {
			return err
		}
		if err := stream.Send(m); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (s *Swarm) look(ref string) (*controlv1.WatchServiceResponse, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail("WatchService"); err != nil {
		return nil, nil, err
	}
	v, err := s.service(ref)
	if err != nil {
		return &controlv1.WatchServiceResponse{Removed: true}, s.changed, nil
	}
	m := &controlv1.WatchServiceResponse{Index: s.index, Service: proto.CloneOf(v), Complete: true, Now: Epoch.UnixNano()}
	for _, t := range s.Tasks {
		if string(t.Task.Service) == string(v.Service.Id) {
			m.Tasks = append(m.Tasks, proto.CloneOf(t))
		}
	}
	return m, s.changed, nil
}
