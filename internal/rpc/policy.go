package rpc

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	rpcv1 "github.com/skep-project/skep/proto/skep/rpc/v1"
)

// method is what the .proto says of one.
type method struct {
	name   string // full gRPC name
	policy *rpcv1.Policy
	output protoreflect.FullName
	stream bool // it takes or gives more than one message
}

func (m *method) allows(who rpcv1.Who) bool { return slices.Contains(m.policy.GetWho(), who) }

// policies reads the policies of every method of a service, and refuses one
// that has a method without, or with one that makes no sense.
func policies(desc *grpc.ServiceDesc) (map[string]*method, error) {
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(desc.ServiceName))
	if err != nil {
		return nil, fmt.Errorf("service %s: its description: %w", desc.ServiceName, err)
	}
	service, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return nil, fmt.Errorf("service %s: the name is not a service's", desc.ServiceName)
	}
	out := map[string]*method{}
	var errs []error
	for i := range service.Methods().Len() {
		md := service.Methods().Get(i)
		m := &method{
			name:   "/" + desc.ServiceName + "/" + string(md.Name()),
			output: md.Output().FullName(),
			stream: md.IsStreamingClient() || md.IsStreamingServer(),
		}
		m.policy, _ = proto.GetExtension(md.Options(), rpcv1.E_Policy).(*rpcv1.Policy)
		errs = append(errs, m.check())
		out[m.name] = m
	}
	for _, name := range methodNames(desc) {
		if out[name] == nil {
			errs = append(errs, fmt.Errorf("method %s: the .proto does not describe it", name))
		}
	}
	return out, errors.Join(errs...)
}

func (m *method) check() error {
	p := m.policy
	switch {
	case p == nil || len(p.GetWho()) == 0:
		return fmt.Errorf("method %s: it has no policy beside it", m.name)
	case slices.Contains(p.GetWho(), rpcv1.Who_WHO_UNSPECIFIED):
		return fmt.Errorf("method %s: its policy names an unspecified caller", m.name)
	case m.allows(rpcv1.Who_WHO_USER) && p.GetNeeds() == rpcv1.Need_NEED_UNSPECIFIED:
		return fmt.Errorf("method %s: its policy lets users in and does not say what they need", m.name)
	case !m.allows(rpcv1.Who_WHO_USER) && p.GetNeeds() != rpcv1.Need_NEED_UNSPECIFIED:
		return fmt.Errorf("method %s: its policy says what users need and lets none in", m.name)
	case m.allows(rpcv1.Who_WHO_USER) != (p.GetDeed() != ""):
		return fmt.Errorf("method %s: its policy names what users do by it if and only if it lets users in", m.name)
	case m.stream && p.GetLeader():
		return fmt.Errorf("method %s: a stream cannot be carried to the leader", m.name)
	case p.GetLocal() && (p.GetLeader() || p.GetRead()):
		return fmt.Errorf("method %s: it is local and yet of the leader or a read", m.name)
	}
	return nil
}

func methodNames(desc *grpc.ServiceDesc) []string {
	var out []string
	for _, m := range desc.Methods {
		out = append(out, "/"+desc.ServiceName+"/"+m.MethodName)
	}
	for _, s := range desc.Streams {
		out = append(out, "/"+desc.ServiceName+"/"+s.StreamName)
	}
	return out
}
