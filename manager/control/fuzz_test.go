package control

import (
	"testing"

	"google.golang.org/protobuf/proto"

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
