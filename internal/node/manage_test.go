package node

import (
	"testing"

	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
)

func TestAMemberIsWantedUntilANewerRecordSaysOtherwise(t *testing.T) {
	t.Parallel()
	const me, since = 7, 100
	for _, tt := range []struct {
		name           string
		wish           *dispatchv1.Wish
		gone, unopened bool
	}{
		{name: "nothing was heard"},
		{name: "the record names this member", wish: &dispatchv1.Wish{Index: 120, Member: me}},
		{name: "the record is older than the member", wish: &dispatchv1.Wish{Index: 99}},
		{name: "the record names no member", wish: &dispatchv1.Wish{Index: 100}, gone: true, unopened: true},
		// Which member the directory is of is not known while its log does not open.
		{name: "the record names another member", wish: &dispatchv1.Wish{Index: 120, Member: 8}, gone: true},
	} {
		if got := gone(tt.wish, me, since); got != tt.gone {
			t.Errorf("%s: gone = %v, want %v", tt.name, got, tt.gone)
		}
		if got := takenOut(tt.wish, since); got != tt.unopened {
			t.Errorf("%s: takenOut = %v, want %v", tt.name, got, tt.unopened)
		}
	}
}
