package show_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/quick"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/cli/show"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func TestNamesStandInNaturalOrder(t *testing.T) {
	t.Parallel()
	want := []string{"", "dev", "dev1", "dev01", "dev2", "dev10", "dev10a", "web.2", "web.10", "web.100000000000000000000000"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, show.Natural)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order differs (-want +got):\n%s", diff)
	}
	turned := func(a, b string) bool { return show.Natural(a, b) == -show.Natural(b, a) && show.Natural(a, a) == 0 }
	if err := quick.Check(turned, nil); err != nil {
		t.Error(err)
	}
}

func TestColumnsCountCellsOfTheScreen(t *testing.T) {
	t.Parallel()
	got := show.Align([]string{"NAME\tSTATUS\tROLE", "서울-노드-하나\tReady\t", "dev01\tDown\tmanager"})
	want := "NAME             STATUS    ROLE\n" +
		"서울-노드-하나   Ready\n" +
		"dev01            Down      manager\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table differs (-want +got):\n%s", diff)
	}
}

func TestCutKeepsWithinItsCells(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{{"short", 5, "short"}, {"longer", 5, "long…"}, {"한국어", 5, "한국…"}, {"한국어", 4, "한…"}, {"", 3, ""}} {
		if got := show.Cut(tt.in, tt.width); got != tt.want || show.Width(got) > tt.width {
			t.Errorf("Cut(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func TestCutMiddleKeepsBothEndsWithinItsCells(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in    string
		width int
		want  string
	}{
		{"web.1", 5, "web.1"}, {"checkout-frontend.12", 12, "checko…nd.12"}, {"한국어서울.1", 8, "한국….1"}, {"abc", 1, "…"}, {"abc", 2, "a…"},
	} {
		if got := show.CutMiddle(tt.in, tt.width); got != tt.want || show.Width(got) > tt.width {
			t.Errorf("CutMiddle(%q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

// TestNothingIsWiderThanTheTerminal draws tables of any cells on terminals of
// any width.
func TestNothingIsWiderThanTheTerminal(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var table show.Table
		fields := rapid.IntRange(1, 8).Draw(t, "columns")
		for i := range fields {
			name := fmt.Sprintf("F%d", i)
			table.Columns = append(table.Columns, show.Column{Field: name, Header: rapid.StringMatching(`[A-Z]{1,9}`).Draw(t, "header")})
			table.Default = append(table.Default, show.Cell{
				Text: "{{." + name + "}}", Least: rapid.IntRange(0, 12).Draw(t, "least"),
				Middle: rapid.Bool().Draw(t, "middle"), Gives: rapid.IntRange(0, fields).Draw(t, "gives"),
			})
		}
		var rows []show.Row
		for range rapid.IntRange(0, 5).Draw(t, "rows") {
			row := show.Row{}
			for _, c := range table.Columns {
				row[c.Field] = rapid.StringMatching(`[a-z.한 ]{0,30}`).Draw(t, "cell")
			}
			rows = append(rows, row)
		}
		width := rapid.IntRange(1, 120).Draw(t, "width")
		var b strings.Builder
		if err := table.Print(&b, show.Look{Width: width}, rows); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(b.String()) {
			if got := show.Width(strings.TrimRight(line, "\n")); got > width {
				t.Fatalf("a line of %d cells on a terminal of %d:\n%s", got, width, b.String())
			}
		}
	})
}

func TestImagesAreWrittenAsPeopleDo(t *testing.T) {
	t.Parallel()
	const digest = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for _, tt := range []struct {
		in    string
		whole bool
		want  string
	}{
		{"docker.io/library/alpine:3", false, "alpine:3"},
		{"docker.io/library/alpine:3" + digest, false, "alpine:3"},
		{"docker.io/library/alpine:3" + digest, true, "alpine:3" + digest},
		{"registry.example/a/b" + digest, false, "registry.example/a/b" + digest},
		{"Not An Image", false, "Not An Image"},
	} {
		if got := show.Image(tt.in, tt.whole); got != tt.want {
			t.Errorf("Image(%q, %v) = %q, want %q", tt.in, tt.whole, got, tt.want)
		}
	}
}

func TestAges(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).UnixNano()
	for d, want := range map[time.Duration]string{
		6 * time.Second: "6 seconds ago", time.Minute: "about a minute ago", 11 * time.Minute: "11 minutes ago",
		-time.Hour: "less than a second ago", 48 * time.Hour: "2 days ago",
	} {
		if got := show.Ago(now-int64(d), now); got != want {
			t.Errorf("Ago(%v) = %q, want %q", d, got, want)
		}
	}
}

// TestANodeThatWaitsIsPending, whatever its state, wherever nodes are counted.
func TestANodeThatWaitsIsPending(t *testing.T) {
	t.Parallel()
	ready := &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_READY}
	for want, n := range map[string]*modelv1.Node{
		"Ready":   {Status: ready, Membership: modelv1.Membership_MEMBERSHIP_ACCEPTED},
		"Pending": {Status: ready, Membership: modelv1.Membership_MEMBERSHIP_PENDING},
		"Down":    {Status: &modelv1.NodeStatus{State: modelv1.NodeState_NODE_STATE_DOWN}},
		"Unknown": {},
	} {
		if got := show.NodeState(n); got != want {
			t.Errorf("%v is %s, want %s", n, got, want)
		}
	}
}
