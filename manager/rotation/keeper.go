package rotation

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/manager/store"
)

// stepTime bounds one step.
const stepTime = 30 * time.Second

// Config configures a Keeper. Every field is required.
type Config struct {
	Store *store.Store
	// Update runs one transaction.
	Update func(ctx context.Context, fn func(*store.Tx) error) error
	Log    *slog.Logger
}

// A Keeper takes the steps of a rotation.
type Keeper struct{ cfg Config }

// New returns a Keeper.
func New(cfg Config) *Keeper { return &Keeper{cfg} }

// Step takes the next step there is; on the leader, again and again. It is planned again
// on what the transaction reads: the record may have moved.
func (k *Keeper) Step(ctx context.Context) error {
	snap := k.cfg.Store.Snapshot()
	if snap.Cluster() == nil || plan(snap, snap.Now()).change == nil {
		return nil
	}
	ctx, stop := context.WithTimeout(ctx, stepTime)
	defer stop()
	var taken step
	err := k.cfg.Update(ctx, func(tx *store.Tx) error {
		taken = plan(tx.Snapshot, tx.Base().Now())
		if taken.change == nil {
			return nil
		}
		c := proto.CloneOf(tx.Cluster())
		taken.change(c)
		return tx.PutCluster(c)
	})
	if err == nil && taken.change != nil {
		k.cfg.Log.LogAttrs(ctx, slog.LevelInfo, "a step of the rotation of the root was taken", slog.String("step", taken.says))
	}
	return err
}
