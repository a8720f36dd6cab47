package control

import (
	"strings"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/store"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// self is the ref that names the node that answers.
const self = "self"

// found is what a ref was matched with: the best of whole id, name, and beginning
// of an id. Of equals there is only one, or the ref is ambiguous.
type found[T any] struct {
	byID, byName, byPrefix []T
}

func (f *found[T]) look(obj T, x id.ID, ref string, names ...string) {
	digits := x.String()
	switch {
	case digits == ref:
		f.byID = append(f.byID, obj)
	case strings.HasPrefix(digits, ref):
		f.byPrefix = append(f.byPrefix, obj)
	}
	for _, name := range names {
		if name == ref {
			f.byName = append(f.byName, obj)
			return
		}
	}
}

// one returns the object that ref means.
func (f *found[T]) one(kind, ref string) (T, error) {
	for _, all := range [][]T{f.byID, f.byName, f.byPrefix} {
		switch len(all) {
		case 0:
			continue
		case 1:
			return all[0], nil
		}
		var none T
		return none, rpc.Refuse(rpc.Errorf(errdefs.ErrInvalidArgument, "%s %s is ambiguous (%d matches found)", kind, ref, len(all)),
			"use a whole id, or a longer part of it")
	}
	var none T
	return none, rpc.Errorf(errdefs.ErrNotFound, "%s %s not found", kind, ref)
}

// node returns the node that ref names.
func (s *Server) node(snap *store.Snapshot, ref string) (*modelv1.Node, error) {
	if ref == "" {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "a node must be named")
	}
	if ref == self {
		if n := snap.Node(s.cfg.Self); n != nil {
			return n, nil
		}
	}
	var f found[*modelv1.Node]
	for n := range snap.Nodes() {
		f.look(n, idOf(n.GetId()), ref, n.GetSpec().GetName(), n.GetDescription().GetHostname())
	}
	return f.one("node", ref)
}

// service returns the service that ref names.
func service(snap *store.Snapshot, ref string) (*modelv1.Service, error) {
	if ref == "" {
		return nil, rpc.Errorf(errdefs.ErrInvalidArgument, "a service must be named")
	}
	if x, err := id.Parse(ref); err == nil {
		if v := snap.Service(x); v != nil {
			return v, nil
		}
	}
	if x, held := snap.Holder(store.ClaimServiceName, ref); held {
		return snap.Service(x), nil
	}
	if v := snap.ServiceByName(ref); v != nil { // it is being removed
		return v, nil
	}
	var f found[*modelv1.Service]
	for v := range snap.Services() {
		f.look(v, idOf(v.GetId()), ref)
	}
	return f.one("service", ref)
}

// nodeName is what people call a node: its name, else its hostname, else its id.
func nodeName(n *modelv1.Node) string {
	switch {
	case n.GetSpec().GetName() != "":
		return n.GetSpec().GetName()
	case n.GetDescription().GetHostname() != "":
		return n.GetDescription().GetHostname()
	}
	return idOf(n.GetId()).String()
}
