//go:build invariants

package store

import (
	"crypto/sha256"
	"sync"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/invariant"
)

// checked says which build this is.
const checked = true

// laid holds, in this build only, the hash each object had when it was put. It is
// never emptied: a check of what the store gives out is worth the memory of a test.
var laid sync.Map

// lay notes what v is as it becomes the store's.
func lay[T any](v T) { laid.Store(any(v), fingerprint(v)) }

// lift holds v to what it was: whoever changed it in between changed what every
// reader shares.
func lift[T any](v T) {
	if was, ok := laid.Load(any(v)); ok {
		invariant.Check(was == fingerprint(v), "an object of the store was changed after it was put: %v", v)
	}
}

func fingerprint(v any) [sha256.Size]byte {
	m, ok := v.(proto.Message)
	if t, is := v.(*Task); is {
		m, ok = t.Proto(), true
	}
	invariant.Check(ok, "a %T is no object of the store", v)
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	invariant.Check(err == nil, "encode %T: %v", v, err)
	return sha256.Sum256(data)
}
