package control

import (
	"net/netip"
	"path"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// FuzzService reads a service and its template as a client may send them: it is
// refused in words, or what is made of it is taken again as it is.
func FuzzService(f *testing.F) {
	add := func(s *modelv1.ServiceSpec, t *modelv1.TaskTemplate) {
		a, err := proto.Marshal(s)
		if err != nil {
			f.Fatal(err)
		}
		b, err := proto.Marshal(t)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(a, b)
	}
	add(&modelv1.ServiceSpec{Name: "web", Mode: &modelv1.ServiceSpec_Replicated{Replicated: &modelv1.Replicated{Replicas: 2}}},
		&modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "alpine", Env: []string{"A=b"}}})
	add(&modelv1.ServiceSpec{}, &modelv1.TaskTemplate{})
	s := &Server{cfg: Config{Decisions: decisions}}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		spec, tpl := &modelv1.ServiceSpec{}, &modelv1.TaskTemplate{}
		if proto.Unmarshal(a, spec) != nil || proto.Unmarshal(b, tpl) != nil {
			return
		}
		spec, tpl, err := s.complete(spec, tpl)
		if err != nil {
			return
		}
		again, tplAgain, err := s.complete(spec, tpl)
		if err != nil || !proto.Equal(spec, again) || !proto.Equal(tpl, tplAgain) {
			t.Errorf("what was made of it is not taken as it is: %v", err)
		}
	})
}

// FuzzImage reads references of images.
func FuzzImage(f *testing.F) {
	for _, ref := range []string{"alpine", "registry.example.com:5000/a/b:c", "a@sha256:" + "00", "A", "-", ""} {
		f.Add(ref)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		var first faults
		full := first.image(typed)
		if len(first) > 0 {
			return
		}
		var second faults
		if again := second.image(full); again != full || len(second) > 0 {
			t.Errorf("%q is %q, and that is %q, %v", typed, full, again, second)
		}
	})
}

// FuzzToken reads what a join token is to be: each network that is taken holds its own
// first address as connections show it, and each pattern can be matched.
func FuzzToken(f *testing.F) {
	hash := make([]byte, 32)
	for _, from := range []string{"10.1.0.0/16", "fd00::/8", "::ffff:10.0.0.0/104", "10.0.0.1/8", "fe80::%eth0/10", "0.0.0.0/0", ""} {
		f.Add(from, "web-*", "zone", "a", int64(3600e9), uint32(1))
	}
	f.Add("10.0.0.0/8", "rack[", "\n", "", int64(-1), ^uint32(0))
	f.Fuzz(func(t *testing.T, from, name, key, value string, ttl int64, uses uint32) {
		msg := &controlv1.CreateTokenRequest{SecretHash: hash, Role: worker, From: []string{from}, Name: name, Labels: map[string]string{key: value}, Ttl: ttl, Uses: uses}
		if checkNewToken(msg) != nil {
			return
		}
		if p, err := netip.ParsePrefix(from); err != nil || !p.Contains(p.Addr().Unmap()) {
			t.Errorf("network %q was taken and lets nobody in: %v", from, err)
		}
		if _, err := path.Match(name, "web-1"); err != nil {
			t.Errorf("pattern %q was taken: %v", name, err)
		}
		if ttl < 0 || uses > maxTokenUses || key == "" || !printable(name) {
			t.Errorf("%v was taken", msg)
		}
	})
}

// FuzzFilters reads what lists and streams are narrowed by: it is refused or passes
// judgement on anything, and a list refuses what means nothing to it.
func FuzzFilters(f *testing.F) {
	for _, m := range []proto.Message{
		&controlv1.Filter{Ids: []string{"a"}, Names: []string{""}, Labels: []string{"a=b", "=", ""}, Desired: []modelv1.TaskState{9, 9999}},
		&controlv1.Filter{Roles: []modelv1.Role{2}, Memberships: []modelv1.Membership{1}, NodeLabels: []string{"x"}},
		&controlv1.WatchEventsRequest{Since: 1, Filter: &controlv1.EventFilter{Types: []string{"node"}, Actions: []string{"none"}, Labels: []string{"a"}}},
		&controlv1.ReadAuditRequest{Tail: 1 << 30, Filter: &controlv1.AuditFilter{Who: []string{"user:"}, Results: []string{"done"}}},
	} {
		text, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "a", "b")
	}
	f.Fuzz(func(t *testing.T, data []byte, key, value string) {
		filter := &controlv1.Filter{}
		if proto.Unmarshal(data, filter) == nil {
			labels := map[string]string{key: value}
			if !labelsPass(labels, nil) || !labelsPass(labels, []string{key + "=" + value}) && !strings.Contains(key, "=") {
				t.Errorf("label %q=%q does not pass itself", key, value)
			}
			labelsPass(labels, filter.GetLabels())
			namePasses(filter.GetNames(), key, value)
			desiredPasses(5, filter.GetDesired())
			idPasses(id.New(), filter.GetIds())
			if err := onlyFor("none", filter); err == nil && proto.Size(filter) > len(filter.ProtoReflect().GetUnknown()) {
				t.Errorf("a list that knows no filter takes %v", filter)
			}
		}
		if msg := (&controlv1.WatchEventsRequest{}); proto.Unmarshal(data, msg) == nil && checkEvents(msg) == nil && (msg.GetSince() < 0 || msg.GetUntil() < 0) {
			t.Errorf("%v is told", msg)
		}
		if msg := (&controlv1.ReadAuditRequest{}); proto.Unmarshal(data, msg) == nil && checkReadAudit(msg) == nil {
			passesAudit(&audit.Record{Who: key, Did: value, Objects: []audit.Object{{Name: key, ID: value}}}, msg.GetFilter())
			if msg.GetTail() > maxTail {
				t.Errorf("%v is told", msg)
			}
		}
	})
}
