package conn

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/cli/say"
)

// The daemon has the same deadline and often is first to act on it: its word
// for that must read as ours.
func TestADaemonThatGivesUpFirstIsTimeOver(t *testing.T) {
	t.Parallel()
	cancelled := fmt.Errorf("stream terminated: %w", context.Canceled)
	for _, tt := range []struct {
		name string
		wait time.Duration // of a second
		err  error
		want string
	}{
		{"just before", time.Second - lead/2, cancelled, "gave up after 1s waiting for godot"},
		{"just before, in other words", time.Second - lead/2, context.DeadlineExceeded, "gave up after 1s waiting for godot"},
		{"just after", time.Second + time.Millisecond, cancelled, "gave up after 1s waiting for godot"},
		{"long before", time.Second / 2, cancelled, "stream terminated"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithTimeout(t.Context(), time.Second)
				defer stop()
				c := New(&say.Streams{}, nil)
				c.Waiting("godot")
				time.Sleep(tt.wait)
				synctest.Wait()
				if err := c.ended(ctx, time.Second, tt.err); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
					t.Errorf("%v, want %q", err, tt.want)
				}
			})
		})
	}
}
