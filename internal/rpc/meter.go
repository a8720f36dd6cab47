package rpc

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skep-project/skep/internal/meter"
)

// meters counts what a server's callers get. There are as many as the server has
// methods: grpc lets no call of another in.
type meters struct {
	methods sync.Map // full name → *methodMeter
	calls   atomic.Int64
	streams atomic.Int64
}

// knownCodes is how many codes grpc has; one that it has not counts as Unknown.
const knownCodes = codes.Unauthenticated + 1

type methodMeter struct {
	codes [knownCodes]meter.Counter
	took  meter.Durations
}

func (m *meters) of(method string) *methodMeter {
	if found, ok := m.methods.Load(method); ok {
		return found.(*methodMeter) //nolint:forcetypeassert // nothing else is stored
	}
	made, _ := m.methods.LoadOrStore(method, &methodMeter{})
	return made.(*methodMeter) //nolint:forcetypeassert // nothing else is stored
}

func (m *methodMeter) end(err error) {
	code := status.Code(err)
	if code >= knownCodes {
		code = codes.Unknown
	}
	m.codes[code].Inc()
}

// count counts a call; it is the outermost link of the chain.
func (m *meters) count(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	begin, of := time.Now(), m.of(info.FullMethod)
	m.calls.Add(1)
	defer m.calls.Add(-1)
	resp, err := next(ctx, req)
	of.took.Since(begin)
	of.end(err)
	return resp, err
}

// countStream counts a stream when it ends. How long it lasted says nothing.
func (m *meters) countStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	of := m.of(info.FullMethod)
	m.streams.Add(1)
	defer m.streams.Add(-1)
	err := next(srv, ss)
	of.end(err)
	return err
}

// Meters is what a server counted.
type Meters struct {
	// Calls and Streams are how many are being served.
	Calls, Streams int64
	// Methods is those that were called, by full name.
	Methods []MethodMeters
}

// MethodMeters is what was counted of one method.
type MethodMeters struct {
	// Method is the full name, "/skep.control.v1.Control/ListNodes".
	Method string
	// Codes counts what ended, by the code it ended with, in grpc's words; those
	// that never occurred are left out.
	Codes map[string]uint64
	// Took is how long calls took; empty for streams.
	Took meter.Reading
}

// Meters returns what was counted.
func (s *Server) Meters() Meters {
	m := &s.meters
	out := Meters{Calls: m.calls.Load(), Streams: m.streams.Load()}
	names := map[string]*methodMeter{}
	m.methods.Range(func(name, of any) bool {
		names[name.(string)] = of.(*methodMeter) //nolint:forcetypeassert // nothing else is stored
		return true
	})
	for _, name := range slices.Sorted(maps.Keys(names)) {
		mm := MethodMeters{Method: name, Codes: map[string]uint64{}, Took: names[name].took.Read()}
		for code := range knownCodes {
			if n := names[name].codes[code].Value(); n > 0 {
				mm.Codes[code.String()] = n
			}
		}
		out.Methods = append(out.Methods, mm)
	}
	return out
}
