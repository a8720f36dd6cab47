package events_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/events"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

func message(index uint64, last bool, list ...*controlv1.Event) *controlv1.WatchEventsResponse {
	return &controlv1.WatchEventsResponse{Index: index, At: clitest.Epoch.UnixNano(), Events: list, Last: last}
}

func lost(name string) *controlv1.Event {
	return &controlv1.Event{Type: "node", Action: "down", Id: clitest.ID(name), Name: name,
		Attributes: map[string]string{"state.old": "unknown", "state.new": "down"}, Reason: "no heartbeat"}
}

// told is a swarm in which two nodes were lost at one index, and one before.
func told() *clitest.Swarm {
	s := clitest.Three()
	s.Told = []*controlv1.WatchEventsResponse{message(3, true), message(7, true, lost("dev03")), message(9, false, lost("dev01")), message(9, true, lost("dev02"))}
	return s
}

func TestEventsAreShownAsDockerDoes(t *testing.T) {
	time.Local = time.UTC
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"for people", nil, "2026-03-01T12:00:00.000000000Z @7 node down eca92je93pj0yanylcvm6ui1t (name=dev03, state.new=down, state.old=unknown): no heartbeat"},
		{"for scripts", []string{"--format", "json"}, `{"Type":"node","Action":"down","Actor":{"ID":"eca92je93pj0yanylcvm6ui1t","Attributes":{"name":"dev03","state.new":"down","state.old":"unknown"}},` +
			`"scope":"swarm","time":1772366400,"timeNano":1772366400000000000,"index":7,"reason":"no heartbeat"}`},
		{"as asked", []string{"--format", "{{.Type}}={{.Action}} {{.Actor.Attributes.name}} {{.Time}} {{.Index}} {{.Status}}"}, "node=down dev03 1772366400 7 down"},
	} {
		r := clitest.Run(t, told(), append([]string{"events"}, tt.args...)...)
		lines := strings.Split(strings.TrimSpace(r.Out), "\n")
		if r.Code != 0 || len(lines) != 3 || lines[0] != tt.want {
			t.Errorf("%s: exit %d, %d lines, the first\n%s\nwant\n%s\n%s", tt.name, r.Code, len(lines), lines[0], tt.want, r.Err)
		}
	}
}

func TestAReaderGoesOnBehindTheLastWholeIndex(t *testing.T) {
	t.Parallel()
	s := told()
	s.Fail["WatchEvents"] = []error{rpc.Errorf(errdefs.ErrUnavailable, "the manager went away")}
	r := clitest.Run(t, s, "events", "--since", "@1", "--format", "{{.Index}} {{.Actor.Attributes.name}}")
	if want := "7 dev03\n9 dev01\n9 dev02\n"; r.Code != 0 || r.Out != want {
		t.Errorf("exit %d, shown:\n%s\nwant each once:\n%s%s", r.Code, r.Out, want, r.Err)
	}
	want := []*controlv1.WatchEventsRequest{
		{After: proto.Uint64(1), Filter: &controlv1.EventFilter{}}, {After: proto.Uint64(7), Filter: &controlv1.EventFilter{}},
	}
	if diff := cmp.Diff(want, s.Asked, protocmp.Transform()); diff != "" {
		t.Errorf("asked otherwise (-want +got):\n%s", diff)
	}
}

func TestAReaderIsToldWhatItMissed(t *testing.T) {
	t.Parallel()
	s := told()
	s.Told[0].Reset_ = true
	r := clitest.Run(t, s, "events", "--since", "@1", "--format", "{{.Type}} {{.Action}} {{.Index}}")
	if !strings.HasPrefix(r.Out, "swarm reset 3\nnode down 7\n") {
		t.Errorf("exit %d, shown:\n%s%s", r.Code, r.Out, r.Err)
	}
}

func TestTheLineBecomesARequest(t *testing.T) {
	t.Parallel()
	s := told()
	r := clitest.Run(t, s, "events", "--since", "10m", "--until", "2026-03-01T12:00:00Z", "--all",
		"-f", "type=node", "-f", "event=down", "-f", "node=dev02", "-f", "service=web", "-f", "label=zone=a")
	want := []*controlv1.WatchEventsRequest{{
		Since: clitest.Epoch.Add(-10 * time.Minute).UnixNano(), Until: clitest.Epoch.UnixNano(),
		Filter: &controlv1.EventFilter{Types: []string{"node"}, Actions: []string{"down"}, Nodes: []string{"dev02"}, Services: []string{"web"},
			Labels: []string{"zone=a"}, All: true},
	}}
	if diff := cmp.Diff(want, s.Asked, protocmp.Transform()); diff != "" || r.Code != 0 {
		t.Errorf("exit %d, asked otherwise (-want +got):\n%s%s", r.Code, diff, r.Err)
	}
}

func TestMistakesAreRefusedBeforeAnybodyIsAsked(t *testing.T) {
	t.Parallel()
	for line, says := range map[string]string{
		"--since yesterday":     "--since yesterday: want a time",
		"--since @x":            "want an index behind @",
		"--until @3":            "want a time",
		"-f colour=red":         `there is no filter "colour"`,
		"-f type":               "want type=VALUE",
		"-f type=container":     "types are swarm, node, service, task, user",
		"--format {{.Nothing}":  "format:",
		"--format {{.Nothing}}": "can't evaluate field Nothing",
		"now":                   "takes no argument",
		"--timeout 0s":          "want more than nothing",
	} {
		s := told()
		r := clitest.Run(t, s, append([]string{"events"}, strings.Fields(line)...)...)
		if r.Code != 2 || !strings.Contains(r.Err, says) || len(s.Asked) != 0 {
			t.Errorf("%s: exit %d, %q; want 2 and %q", line, r.Code, r.Err, says)
		}
	}
}

func TestNoQuorumIsARefusalAtOnce(t *testing.T) {
	t.Parallel()
	s := told()
	s.Told = nil
	s.Fail["WatchEvents"] = []error{rpc.RefuseNoLeader([]string{"dev02 (192.0.2.2:2377)"}, 2, 1)}
	r := clitest.Run(t, s, "events")
	if r.Code != 1 || !strings.Contains(r.Err, "unreachable managers: dev02") {
		t.Errorf("exit %d: %s", r.Code, r.Err)
	}
}

func TestMoments(t *testing.T) {
	t.Parallel()
	now := clitest.Epoch
	for text, want := range map[string]events.Moment{
		"@0":                        {Indexed: true},
		"@123":                      {Index: 123, Indexed: true},
		"90s":                       {At: now.Add(-90 * time.Second).UnixNano()},
		"-1h":                       {At: now.Add(time.Hour).UnixNano()},
		"2026-03-01":                {At: now.Add(-12 * time.Hour).UnixNano()},
		"2026-03-01T11:59":          {At: now.Add(-time.Minute).UnixNano()},
		"2026-03-01T13:00:00+01:00": {At: now.UnixNano()},
		"1772366400":                {At: now.UnixNano()},
		"1772366400.5":              {At: now.Add(time.Second / 2).UnixNano()},
		"0":                         {At: 1},
	} {
		if got, err := events.ParseMoment(text, now); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "@", "@-1", "soon", "2026-13-01", "1e300", "9999999h"} {
		if got, err := events.ParseMoment(text, now); err == nil {
			t.Errorf("%s: %+v, want an error", text, got)
		}
	}
}

// FuzzParseMoment: whatever is read is a place that can be asked for.
func FuzzParseMoment(f *testing.F) {
	for _, s := range []string{"@1", "10m", "-10m", "2026-03-01T12:00:00Z", "1772366400.25", "@18446744073709551615", "0", "NaN", "1e9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := events.ParseMoment(s, clitest.Epoch)
		if err == nil && !m.Indexed && m.At < 1 {
			t.Errorf("%q is %+v, and nobody can ask for that", s, m)
		}
	})
}
