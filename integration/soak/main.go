// Command soak torments a swarm on lab hosts for as long as it is told, and holds
// what happened to what must always be true.
//
// Clients read and write registers through every manager, a watcher looks from
// outside which containers live, and a nemesis makes one fault after the other,
// drawn from a seed. All three write one history down. It is checked at the end,
// and can be checked again: by porcupine, for an order of all reads and writes;
// and for two containers of one slot, or one that ended, where no fault excuses
// it. In between, whenever the nemesis rests, the swarm must become whole.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/skep-project/skep/internal/lab"
)

func main() {
	lab.Init()
	var c config
	flag.StringVar(&c.ctl, "bin", "bin/ctl", "the ctl to torment; containerd and runc lie beside it")
	flag.DurationVar(&c.span, "for", time.Hour, "how long to make faults")
	flag.Uint64Var(&c.seed, "seed", 0, "what the faults are drawn from; 0: drawn and printed")
	flag.IntVar(&c.managers, "managers", 3, "how many managers")
	flag.IntVar(&c.workers, "workers", 2, "how many workers")
	flag.StringVar(&c.only, "only", "", "only faults with this in their name")
	flag.StringVar(&c.dir, "dir", "bin/soak-history", "where the history, and what explains a failure, is written")
	check := flag.String("check", "", "check this history again, and do nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := judge(ctx, c, *check)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "soak: FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("soak: everything was as it must be")
}

// config is what one soak is told.
type config struct {
	ctl               string
	span              time.Duration
	seed              uint64
	managers, workers int
	only              string
	dir               string
}

// judge makes a history, or takes one, and checks it.
func judge(ctx context.Context, c config, again string) error {
	if again != "" {
		h, err := loadFile(again)
		return errors.Join(err, verdict(h, filepath.Dir(again)))
	}
	if c.seed == 0 {
		c.seed = rand.Uint64()
	}
	fmt.Printf("soak: seed %d, %d managers, %d workers, for %v\n", c.seed, c.managers, c.workers, c.span)
	h, err := soak(ctx, c)
	return errors.Join(err, verdict(h, c.dir))
}

func loadFile(path string) (history, error) {
	f, err := os.Open(path)
	if err != nil {
		return history{}, err
	}
	defer f.Close()
	return load(f)
}

// verdict checks a history.
func verdict(h history, dir string) error {
	fmt.Printf("soak: checking %d operations, %d containers, %d touches of hosts\n", len(h.ops), len(h.rans), len(h.touches))
	return errors.Join(checkRegisters(h, filepath.Join(dir, "registers.html")), checkSlots(h))
}
