package authority

import (
	"net"
	"sync"

	"golang.org/x/time/rate"
)

// maxKeys bounds how many callers a limiter tells apart.
const maxKeys = 8192

// A limiter limits each key by itself. When it knows too many it forgets those
// that have been quiet long enough to have their whole burst back; if all are
// busy, newcomers are refused until some are quiet.
type limiter struct {
	rate  rate.Limit
	burst int

	mu   sync.Mutex // guards keys; held for memory only
	keys map[string]*rate.Limiter
}

func newLimiter(r rate.Limit, burst int) *limiter {
	return &limiter{rate: r, burst: burst, keys: map[string]*rate.Limiter{}}
}

// Allow reports whether key may act now.
func (l *limiter) Allow(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.keys[key]
	if one == nil {
		if len(l.keys) >= maxKeys && !l.forget() {
			return false
		}
		one = rate.NewLimiter(l.rate, l.burst)
		l.keys[key] = one
	}
	return one.Allow()
}

// forget drops quiet keys and reports whether there were any. l.mu is held.
func (l *limiter) forget() bool {
	before := len(l.keys)
	for key, one := range l.keys {
		if one.Tokens() >= float64(l.burst) {
			delete(l.keys, key)
		}
	}
	return len(l.keys) < before
}

// hostOf returns the host of host:port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}
