package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/skep-project/skep/integration/loss"
)

// A figure is what was measured of one loss.
type figure struct {
	loss.Loss
	took []time.Duration
}

// median is the middle of the times, the later one of two.
func median(took []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[len(sorted)/2]
}

// verdict holds a figure to its targets.
func (f figure) verdict() string {
	if m := median(f.took); m > f.Typical || slices.Max(f.took) > f.Worst {
		return "missed"
	}
	return "met"
}

func print(figures []figure) {
	fmt.Printf("\n%-46s %6s %8s %8s %8s   %s\n", "", "trials", "min", "median", "max", "target (median, worst)")
	for _, f := range figures {
		if len(f.took) == 0 {
			continue
		}
		fmt.Printf("%-46s %6d %8s %8s %8s   %v, %v: %s\n", f.Name, len(f.took), seconds(slices.Min(f.took)),
			seconds(median(f.took)), seconds(slices.Max(f.took)), f.Typical, f.Worst, f.verdict())
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }
