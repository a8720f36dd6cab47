package reconcile

import (
	"cmp"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
)

func expectTask(t *store.Task) *logv1.Expect {
	return &logv1.Expect{Kind: store.KindTask, Key: t.ID.Bytes(), Version: t.DecidedIndex}
}

func (d *draft) expectService() *logv1.Expect {
	return &logv1.Expect{Kind: store.KindService, Key: d.id.Bytes(), Version: d.service.GetMeta().GetVersion()}
}

func remove(kind logv1.Kind, key []byte) *logv1.Operation {
	return &logv1.Operation{Op: &logv1.Operation_Delete{Delete: &logv1.Delete{Kind: kind, Key: key}}}
}

// compareSeekers orders by slot, what waited before what is made, then by id.
func compareSeekers(a, b seeker) int {
	if c := cmp.Compare(a.slot, b.slot); c != 0 || a.task == nil || b.task == nil {
		return c
	}
	return id.Compare(a.task.ID, b.task.ID)
}
