package consensus

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
)

// holdOffice runs OnTenure while this member leads and has applied an entry of
// its term, one tenure at a time. It ends with stop, or with run.
func (r *Runner) holdOffice(stop, run context.Context) error {
	for {
		st, changed := r.board.get()
		if stop.Err() != nil || run.Err() != nil {
			return nil
		}
		if st.Tenured && r.cfg.OnTenure != nil && stop.Err() == nil && run.Err() == nil {
			r.tenure(stop, run, st.Term)
			continue
		}
		select {
		case <-changed:
		case <-stop.Done():
			return nil
		case <-run.Done():
			return nil
		}
	}
}

// tenure runs OnTenure for one term and returns when it has returned and the
// term is over.
func (r *Runner) tenure(stop, run context.Context, term uint64) {
	ctx, end := context.WithCancel(run)
	defer end()
	done := make(chan struct{})
	r.log.LogAttrs(ctx, slog.LevelInfo, "tenure begins", slog.Uint64("term", term))
	if err := os.RemoveAll(filepath.Join(r.cfg.Dir, oldName)); err != nil { // this cluster runs
		r.log.LogAttrs(ctx, slog.LevelWarn, "replaced directory was not removed", slog.Any("err", err))
	}
	go func() {
		defer close(done)
		r.cfg.OnTenure(ctx, term)
	}()
	for {
		st, changed := r.board.get()
		if !st.Tenured || st.Term != term || stop.Err() != nil || run.Err() != nil {
			break
		}
		select {
		case <-changed:
		case <-stop.Done():
		case <-run.Done():
		}
	}
	end()
	<-done
	r.log.LogAttrs(run, slog.LevelInfo, "tenure ends", slog.Uint64("term", term))
}
