package exec

import (
	"errors"
	"strings"
	"testing"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestWhatNoNodeCanRunIsImpossible(t *testing.T) {
	t.Parallel()
	volume := &modelv1.Mount{Type: modelv1.MountType_MOUNT_TYPE_VOLUME, Source: "data", Target: "/data"}
	for _, tt := range []struct {
		c    *modelv1.ContainerSpec
		want string // "": nothing is wrong
	}{
		{&modelv1.ContainerSpec{}, ""},
		{&modelv1.ContainerSpec{Hostname: "{{.Service.Name}}-{{.Task.Slot}}-{{.Node.Hostname}}-{{.Service.Labels.tier}}"}, ""},
		{&modelv1.ContainerSpec{Sysctls: map[string]string{"kernel.msgmax": "9000"}}, ""},
		{&modelv1.ContainerSpec{Hostname: "{{.Bogus}}"}, "hostname"},
		{&modelv1.ContainerSpec{Env: []string{"A={{.Service.Name"}}, "env"},
		{&modelv1.ContainerSpec{Env: []string{"A={{.Service.Labels.none}}"}}, "env"},
		{&modelv1.ContainerSpec{Init: true}, "leave --init away"},
		{&modelv1.ContainerSpec{Mounts: []*modelv1.Mount{volume}}, "mount at /data: volumes are not supported"},
		{&modelv1.ContainerSpec{Sysctls: map[string]string{"net.core.somaxconn": "9"}}, "sysctl net.core.somaxconn"},
	} {
		err := errors.Join(Impossible(&modelv1.TaskTemplate{Container: tt.c}, map[string]string{"tier": "front"})...)
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%v: %v; want %q", tt.c, err, tt.want)
		}
	}
}

func TestACapabilityIsKnownInAnySpelling(t *testing.T) {
	t.Parallel()
	for name, known := range map[string]bool{"net_raw": true, "CAP_NET_RAW": true, "all": true, "BOGUS": false, "CAP_BOGUS": false, "": false} {
		if full, got := Capability(name); got != known {
			t.Errorf("%q is %s, known %v; want %v", name, full, got, known)
		}
	}
}
