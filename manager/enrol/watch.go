package enrol

import (
	"context"
	"time"

	"github.com/skep-project/skep/manager/store"
)

// recheckPeriod is how often time alone may end a stream.
const recheckPeriod = time.Minute

// Watch calls recheck whenever the record of a node or user, the membership or the roots changed,
// and once a minute, until ctx ends: what rpc.Server.Recheck is for.
func Watch(ctx context.Context, s *store.Store, recheck func()) error {
	w := s.Watch(store.Key{Kind: store.KindNode}, store.Key{Kind: store.KindUser}, store.Key{Kind: store.KindMember}, store.Key{Kind: store.KindCluster})
	defer w.Close()
	tick := time.NewTicker(recheckPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.C():
			w.Take()
		case <-tick.C:
		}
		recheck()
	}
}
