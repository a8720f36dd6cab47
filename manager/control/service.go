package control

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/internal/taskstate"
	"github.com/skep-project/skep/manager/store"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// serviceView is a service with its templates and how many of its tasks run. lost is
// how many of them do not, because their node is down.
func serviceView(snap *store.Snapshot, v *modelv1.Service, lost int) *controlv1.ServiceView {
	x := idOf(v.GetId())
	count := snap.ServiceCount(x)
	view := &controlv1.ServiceView{
		Service:          withoutAuths(v),
		Template:         snap.Revision(x, v.GetTarget()).GetTemplate(),
		PreviousTemplate: snap.Revision(x, v.GetPrevious()).GetTemplate(),
		Desired:          v.GetSpec().GetReplicated().GetReplicas(),
		Running:          uint64(count.Running - lost), //nolint:gosec // the lost are some of them
	}
	if v.GetSpec().GetGlobal() != nil {
		view.Desired = uint64(count.Wanted) //nolint:gosec // not negative; one for each node that takes one
	}
	if v.GetRemoving() {
		view.Desired = 0
	}
	return view
}

// lost counts, for each service, the tasks that were running when their node went
// down: their state is the last that was reported.
func lost(snap *store.Snapshot) map[id.ID]int {
	var counts map[id.ID]int
	for n := range snap.Nodes() {
		if n.GetStatus().GetState() != modelv1.NodeState_NODE_STATE_DOWN {
			continue
		}
		for t := range snap.TasksByNode(idOf(n.GetId())) {
			if t.Counts() && t.Observed == taskstate.Running {
				if counts == nil {
					counts = make(map[id.ID]int)
				}
				counts[t.Service]++
			}
		}
	}
	return counts
}

// ListServices shows the services that pass the filter, by id.
func (s *Server) ListServices(_ context.Context, msg *controlv1.ListServicesRequest) (*controlv1.ListServicesResponse, error) {
	f := msg.GetFilter()
	if err := onlyFor("services", f, "ids", "names", "labels", "modes"); err != nil {
		return nil, err
	}
	snap, resp := s.snapshot(), &controlv1.ListServicesResponse{}
	lost := lost(snap)
	for v := range snap.Services() {
		if idPasses(idOf(v.GetId()), f.GetIds()) && namePasses(f.GetNames(), v.GetSpec().GetName()) &&
			labelsPass(v.GetSpec().GetLabels(), f.GetLabels()) && modePasses(v.GetSpec(), f.GetModes()) {
			resp.Services = append(resp.Services, serviceView(snap, v, lost[idOf(v.GetId())]))
		}
	}
	return resp, nil
}

// GetService shows one service.
func (s *Server) GetService(_ context.Context, msg *controlv1.GetServiceRequest) (*controlv1.GetServiceResponse, error) {
	snap := s.snapshot()
	v, err := service(snap, msg.GetRef())
	if err != nil {
		return nil, err
	}
	return &controlv1.GetServiceResponse{Service: serviceView(snap, v, lost(snap)[idOf(v.GetId())])}, nil
}

// CreateService makes a service and its first revision.
func (s *Server) CreateService(ctx context.Context, msg *controlv1.CreateServiceRequest) (*controlv1.CreateServiceResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.CreateServiceResponse{Id: a.first().Bytes()}, err
	}
	given := msg.GetTemplate()
	if given == nil {
		given = &modelv1.TaskTemplate{} // what it lacks is said with the rest
	}
	spec, tpl, err := s.complete(msg.GetSpec(), given)
	if err != nil {
		return nil, err
	}
	x, drawn := id.New(), spec.GetName() == ""
	a, err := s.change(ctx, req, func(tx *store.Tx) error {
		if drawn {
			spec.Name = drawName(tx.Snapshot)
		}
		return s.createService(tx, x, spec, tpl, msg.GetRegistryAuth())
	}, x)
	if err != nil {
		return nil, err
	}
	return &controlv1.CreateServiceResponse{Id: a.first().Bytes()}, nil
}

func (s *Server) createService(tx *store.Tx, x id.ID, spec *modelv1.ServiceSpec, tpl *modelv1.TaskTemplate, auth *modelv1.RegistryAuth) error {
	name := spec.GetName()
	if _, held := tx.Holder(store.ClaimServiceName, name); held {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrAlreadyExists, "name conflicts with an existing object: service %s already exists", name),
			"choose another name, or change the service with: ctl service update "+name)
	}
	v := &modelv1.Service{Id: x.Bytes(), Spec: spec}
	s.cfg.Revise(v, 1, now(tx.Snapshot))
	if err := tx.Claim(store.ClaimServiceName, name, x); err != nil {
		return err
	}
	if err := tx.PutRevision(&modelv1.Revision{Service: x.Bytes(), Number: 1, Template: tpl}); err != nil {
		return err
	}
	if err := keepAuths(tx, v, auth); err != nil {
		return err
	}
	return tx.PutService(v)
}

// UpdateService replaces the spec and, if it differs, the template of a service,
// or goes back to the previous revision.
func (s *Server) UpdateService(ctx context.Context, msg *controlv1.UpdateServiceRequest) (*controlv1.UpdateServiceResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.UpdateServiceResponse{Id: a.first().Bytes(), Version: a.index}, err
	}
	v, err := service(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	edit, err := s.edit(msg)
	if err != nil {
		return nil, err
	}
	x := idOf(v.GetId())
	a, err := s.change(ctx, req, func(tx *store.Tx) error {
		old, err := editable(tx.Snapshot, x, msg)
		if err != nil {
			return err
		}
		v := proto.CloneOf(old)
		if err := edit(tx, v); err != nil {
			return err
		}
		if err := keepAuths(tx, v, msg.GetRegistryAuth()); err != nil || proto.Equal(v, old) {
			return err
		}
		return tx.PutService(v)
	}, x)
	if err != nil {
		return nil, err
	}
	if a.before {
		return &controlv1.UpdateServiceResponse{Id: a.first().Bytes(), Version: a.index}, nil
	}
	return &controlv1.UpdateServiceResponse{Id: x.Bytes(), Version: s.snapshot().Service(x).GetMeta().GetVersion()}, nil
}

// editable returns the service as it is, if it may be changed as msg says.
func editable(snap *store.Snapshot, x id.ID, msg *controlv1.UpdateServiceRequest) (*modelv1.Service, error) {
	v := snap.Service(x)
	have := v.GetMeta().GetVersion()
	switch {
	case v == nil:
		return nil, rpc.Errorf(errdefs.ErrNotFound, "service %s not found", msg.GetRef())
	case v.GetRemoving():
		return nil, rpc.Errorf(errdefs.ErrFailedPrecondition, "service %s is being removed", msg.GetRef())
	case msg.GetVersion() == 0 && !msg.GetRollback():
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "service %s: the version the change was made from is missing", msg.GetRef())
	case msg.GetVersion() != 0 && msg.GetVersion() != have:
		return nil, outOfSequence("service "+msg.GetRef(), have, msg.GetVersion())
	}
	return v, nil
}

// edit returns what msg does to a copy of the service.
func (s *Server) edit(msg *controlv1.UpdateServiceRequest) (func(*store.Tx, *modelv1.Service) error, error) {
	if msg.GetRollback() {
		return func(tx *store.Tx, v *modelv1.Service) error { return s.rollBack(v, now(tx.Snapshot)) }, nil
	}
	spec, tpl, err := s.complete(msg.GetSpec(), msg.GetTemplate())
	if err != nil {
		return nil, err
	}
	return func(tx *store.Tx, v *modelv1.Service) error {
		if err := mayBecome(v.GetSpec(), spec); err != nil {
			return err
		}
		same := proto.Equal(v.GetSpec(), spec)
		v.Spec = spec
		running := tx.Revision(idOf(v.GetId()), v.GetTarget()).GetTemplate()
		if tpl == nil || proto.Equal(running, tpl) {
			if same { // nothing is asked for but to go on
				s.cfg.Resume(v, now(tx.Snapshot))
			}
			return nil
		}
		number := v.GetLastRevision() + 1
		s.cfg.Revise(v, number, now(tx.Snapshot))
		return tx.PutRevision(&modelv1.Revision{Service: v.GetId(), Number: number, Template: tpl})
	}, nil
}

func (s *Server) rollBack(v *modelv1.Service, now int64) error {
	name := v.GetSpec().GetName()
	if v.GetPrevious() == 0 {
		return rpc.Refuse(rpc.Errorf(errdefs.ErrFailedPrecondition, "service %s does not have a previous revision to roll back to", name),
			"change it with: ctl service update "+name)
	}
	return s.cfg.RollBack(v, now)
}

// mayBecome refuses what a service cannot change.
func mayBecome(old, spec *modelv1.ServiceSpec) error {
	if spec.GetName() != old.GetName() {
		return rpc.Errorf(errdefs.ErrNotImplemented, "renaming services is not supported: %s cannot become %s", old.GetName(), spec.GetName())
	}
	if (spec.GetGlobal() != nil) != (old.GetGlobal() != nil) {
		return rpc.Errorf(errdefs.ErrNotImplemented, "service mode change is not allowed: remove service %s and create it anew", old.GetName())
	}
	return nil
}

// RemoveService has a service shut down and then forgotten, with its tasks. Its
// name is free at once: whoever removes a service to make it anew does not wait
// for the old one's tasks to stop.
func (s *Server) RemoveService(ctx context.Context, msg *controlv1.RemoveServiceRequest) (*controlv1.RemoveServiceResponse, error) {
	req, err := identify(ctx, msg)
	if err != nil {
		return nil, err
	}
	if a, done, err := s.earlier(ctx, req); err != nil || done {
		return &controlv1.RemoveServiceResponse{Id: a.first().Bytes()}, err
	}
	v, err := service(s.snapshot(), msg.GetRef())
	if err != nil {
		return nil, err
	}
	x := idOf(v.GetId())
	_, err = s.change(ctx, req, func(tx *store.Tx) error {
		v := tx.Service(x)
		if v == nil || v.GetRemoving() {
			return nil // it is what was asked for
		}
		v = proto.CloneOf(v)
		v.Removing = true
		return errors.Join(tx.PutService(v), tx.Release(store.ClaimServiceName, v.GetSpec().GetName(), x))
	}, x)
	if err != nil {
		return nil, err
	}
	return &controlv1.RemoveServiceResponse{Id: x.Bytes()}, nil
}

// drawName draws a name that no service has.
func drawName(snap *store.Snapshot) string {
	for n := 0; ; n++ {
		name := manners[rand.IntN(len(manners))] + "_" + bees[rand.IntN(len(bees))]
		if n >= 3 {
			name = fmt.Sprintf("%s%d", name, rand.IntN(n))
		}
		if _, held := snap.Holder(store.ClaimServiceName, name); !held {
			return name
		}
	}
}

// The words of drawn names.
var (
	manners = []string{
		"able", "airy", "bold", "brave", "bright", "brisk", "busy", "calm", "clear", "clever", "deft", "eager", "early",
		"fair", "fleet", "fond", "gentle", "glad", "golden", "hardy", "humming", "keen", "kind", "late", "lively", "lucky",
		"merry", "mild", "neat", "nimble", "patient", "plain", "proud", "quick", "quiet", "ready", "steady", "sunny", "swift", "wise",
	}
	bees = []string{
		"amber", "apiary", "bee", "bloom", "borage", "brood", "cell", "clover", "colony", "comb", "drone", "field", "flower",
		"forager", "frame", "garden", "guard", "heather", "hive", "honey", "keeper", "lavender", "linden", "mason", "mead",
		"meadow", "nectar", "nurse", "orchard", "pollen", "queen", "scout", "skep", "smoker", "sorrel", "swarm", "thyme", "wax", "willow", "wing",
	}
)
