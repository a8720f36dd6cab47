package conn

import (
	"context"
	"errors"
)

// Each does one thing to each thing that a command names, and goes on past a
// refusal, but not past the end of ctx.
func Each(ctx context.Context, refs []string, do func(ctx context.Context, ref string) error) error {
	var errs []error
	for _, ref := range refs {
		if err := do(ctx, ref); err != nil {
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
	}
	if len(errs) == 1 {
		return errs[0]
	}
	return errors.Join(errs...)
}
