package metrics

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"
)

// What a caller gets at most. Beyond maxConns a connection waits; beyond
// maxScrapes a scrape is refused.
const (
	maxConns   = 32
	maxScrapes = 4
	// patience is how long a look at the node may take: what it reads is in memory.
	// One that takes longer means that a lock is never let go of.
	patience = 5 * time.Second
	// stopGrace is how long answers under way may take when the server ends.
	stopGrace = time.Second
)

// Config configures a Server. Every field is required.
type Config struct {
	// Look and Condition look at the node. They are called when somebody asks.
	Look      func() Facts
	Condition func() Condition
	// Log receives the server's records.
	Log *slog.Logger
}

// A Server serves /metrics, /healthz and /readyz, and nothing else.
type Server struct {
	cfg Config

	mu      sync.Mutex // guards looking
	looking *look      // not nil while a look is under way
}

// look is one look at the node's condition, for all who ask meanwhile.
type look struct {
	done chan struct{}
	c    Condition
}

// New returns a server. Serve serves it.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Serve serves the pages on l until ctx ends, and closes it.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           s.pages(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      3 * patience,
		IdleTimeout:       2 * time.Minute, // longer than most scrape intervals
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		bye, end := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
		defer end()
		if err := server.Shutdown(bye); err != nil {
			_ = server.Close() // cut: it had its time
		}
	})
	err := server.Serve(netutil.LimitListener(l, maxConns))
	if !stop() {
		<-ended
	}
	if err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics at %s: %w", l.Addr(), err)
	}
	return nil
}

// pages is what there is to see.
func (s *Server) pages() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(newRegistry(s.cfg.Look), promhttp.HandlerOpts{
		ErrorHandling: promhttp.HTTPErrorOnError, MaxRequestsInFlight: maxScrapes, Timeout: 2 * patience,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, func(c Condition) []Check { return c.alive(time.Now()) })
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		s.answer(w, r, Condition.ready)
	})
	return mux
}

// verdict is what the health pages say.
type verdict struct {
	OK     bool    `json:"ok"`
	Checks []Check `json:"checks"`
}

// answer says how the checks came out: 200 if all is well, else 503.
func (s *Server) answer(w http.ResponseWriter, r *http.Request, checks func(Condition) []Check) {
	v := verdict{OK: true}
	if c, ok := s.look(r.Context()); ok {
		v.Checks = checks(c)
	} else {
		v.Checks = []Check{check("answers", false, fmt.Sprintf("the daemon did not say how it is within %v: something in it is stuck", patience))}
	}
	for _, c := range v.Checks {
		v.OK = v.OK && c.OK
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !v.OK {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	_ = enc.Encode(v) // a caller that went away hears nothing
}

// look returns the node's condition, or false if it does not come in time. All
// who ask at once share a look: one that is stuck for ever is the only one.
func (s *Server) look(ctx context.Context) (Condition, bool) {
	s.mu.Lock()
	l := s.looking
	if l == nil {
		l = &look{done: make(chan struct{})}
		s.looking = l
		go func() { // not waited for: that it may never end is what it is for
			l.c = s.cfg.Condition()
			s.mu.Lock()
			s.looking = nil
			s.mu.Unlock()
			close(l.done)
		}()
	}
	s.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-l.done:
		return l.c, true
	case <-late.C:
	case <-ctx.Done():
	}
	return Condition{}, false
}
