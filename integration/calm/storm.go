package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

const (
	// fileBytes is how much a writer writes before it begins its file anew.
	fileBytes = 64 << 20
	// gustEvery is after how many writes a writer writes one gust instead.
	gustEvery  = 500
	smallBytes = 4 << 10
	gustBytes  = 16 << 20
)

// A storm keeps a disk busy: small writes, each with its fsync, and now and
// then a gust that fills the disk's queue.
type storm struct {
	dir string // on the disk

	mu    sync.Mutex // guards what follows
	syncs sample
	err   error
}

// blow writes to one file until ctx ends.
func (s *storm) blow(ctx context.Context, n int) {
	f, err := os.Create(filepath.Join(s.dir, fmt.Sprintf("storm%d", n)))
	if err != nil {
		s.fail(err)
		return
	}
	defer f.Close()
	gust := make([]byte, gustBytes)
	var at int64
	for i := 1; ctx.Err() == nil; i++ {
		size := int64(smallBytes)
		if i%gustEvery == 0 {
			size = gustBytes
		}
		if at+size > fileBytes {
			at = 0
		}
		if _, err := f.WriteAt(gust[:size], at); err != nil {
			s.fail(err)
			return
		}
		at += size
		began := time.Now()
		if err := f.Sync(); err != nil {
			s.fail(err)
			return
		}
		s.mu.Lock()
		s.syncs.add(time.Since(began))
		s.mu.Unlock()
	}
}

func (s *storm) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *storm) failed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *storm) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "fsync " + s.syncs.reset()
}

// A sample is how long things took since the last reset.
type sample []time.Duration

func (s *sample) add(d time.Duration) { *s = append(*s, d) }

// reset empties the sample and says what was in it.
func (s *sample) reset() string {
	if len(*s) == 0 {
		return "none"
	}
	slices.Sort(*s)
	at := func(share float64) time.Duration {
		return (*s)[int(share*float64(len(*s)-1))].Round(100 * time.Microsecond)
	}
	text := fmt.Sprintf("%d: p50 %v p99 %v max %v", len(*s), at(0.5), at(0.99), at(1))
	*s = (*s)[:0]
	return text
}
