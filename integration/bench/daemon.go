package main

import (
	"context"
	"encoding/json"
	"errors"
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
		if err := profile(file); err != nil {
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

// profile has the process profiled into file from its start; SIGUSR2 begins the
// profile anew, and ends it the next time: the timed part of a scenario lies
// between two of them.
func profile(file string) error {
	if err := startProfile(file); err != nil {
		return err
	}
	turns := make(chan os.Signal, 2) // the beginning and the end of a part
	signal.Notify(turns, syscall.SIGUSR2)
	go func() {
		within := false
		for range turns {
			pprof.StopCPUProfile()
			if within = !within; !within {
				continue
			}
			if err := startProfile(file); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	}()
	return nil
}

func startProfile(file string) error {
	f, err := os.Create(file) // it is open for as long as the process
	if err != nil {
		return err
	}
	return pprof.StartCPUProfile(f)
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
	if p := os.Getenv(envProfile); p != "" {
		if err := profileHeap(p + ".heap"); err != nil {
			return err
		}
	}
	next := filepath.Join(filepath.Dir(file), ".heap")
	if err := os.WriteFile(next, data, 0o600); err != nil {
		return err
	}
	return os.Rename(next, file)
}

// profileHeap says where what is live was allocated.
func profileHeap(file string) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("heap").WriteTo(f, 0), f.Close())
}
