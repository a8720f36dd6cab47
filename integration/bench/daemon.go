package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"

	"github.com/skep-project/skep/cli"
)

// The environment of a manager of the bench.
const (
	envProfile = "BENCH_CPUPROFILE" // file for its CPU profile
	envHeap    = "BENCH_HEAP"       // file that says its live heap when it is sent SIGUSR1
)

// A heap is what a manager holds in memory after a collection.
type heap struct {
	LiveBytes uint64 `json:"live_bytes"`
	Stacks    uint64 `json:"stack_bytes"`
	Routines  int    `json:"goroutines"`
}

// daemon is "ctl daemon" as it is shipped, with what the bench looks at beside
// it: a profile, and a word on its heap when asked.
func daemon() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if file := os.Getenv(envProfile); file != "" {
		f, err := os.Create(file)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer pprof.StopCPUProfile()
	}
	asked := make(chan os.Signal, 1) // one question at a time
	signal.Notify(asked, syscall.SIGUSR1)
	go func() {
		for range asked {
			if err := tellHeap(os.Getenv(envHeap)); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	return cli.Main(ctx, append([]string{"ctl"}, os.Args[1:]...), cli.ProcessStreams())
}

func tellHeap(file string) error {
	runtime.GC()
	runtime.GC() // what the first one finalised
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	data, err := json.Marshal(heap{LiveBytes: m.HeapAlloc, Stacks: m.StackInuse, Routines: runtime.NumGoroutine()})
	if err != nil {
		return err
	}
	next := filepath.Join(filepath.Dir(file), ".heap")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}
