package bubble

import "flag"

// chaosFrom and chaosCount choose the seeds of a longer run.
var (
	chaosFrom  = flag.Uint64("chaos-from", 1, "first seed of the faults")
	chaosCount = flag.Uint64("chaos-count", 4, "how many seeds")
)

func chaosSeeds() []uint64 {
	var out []uint64
	for i := range *chaosCount {
		out = append(out, *chaosFrom+i)
	}
	return out
}
