package client

import (
	"sync/atomic"
	"time"
)

// atomicTime is a time that one goroutine writes and others read.
type atomicTime struct{ p atomic.Pointer[time.Time] }

func (a *atomicTime) store(t time.Time) { a.p.Store(&t) }

func (a *atomicTime) load() time.Time {
	if t := a.p.Load(); t != nil {
		return *t
	}
	return time.Time{}
}
