//go:build invariants

package store

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/internal/invariant"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// checked says which build this is.
const checked = true

// laid holds, in this build only, the prints each object had when it was put. It
// is never emptied: a check of what the store gives out is worth the memory of a
// test.
var laid sync.Map

// prints are the hashes of a message's fields that are set, by number.
type prints map[protowire.Number][sha256.Size]byte

// lay notes what v is as it becomes the store's.
func lay[T any](v T) { laid.Store(any(v), printsOf(message(v))) }

// lift holds v to what it was: whoever changed it in between changed what every
// reader shares. It tells which fields, and never what is in them: an object may
// hold a secret.
func lift[T any](v T) {
	was, ok := laid.Load(any(v))
	if !ok {
		return
	}
	m := message(v)
	if fields := differing(m, was.(prints), printsOf(m)); len(fields) > 0 {
		invariant.Check(false, "an object of the store was changed after it was put: %s: %s", nameOf(m), strings.Join(fields, ", "))
	}
}

// message is an object as it is in the log.
func message(v any) proto.Message {
	if t, is := v.(*Task); is {
		return t.Proto()
	}
	m, ok := v.(proto.Message)
	invariant.Check(ok, "a %T is no object of the store", v)
	return m
}

func printsOf(m proto.Message) prints {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	invariant.Check(err == nil, "encode %T: %v", m, err)
	fields := make(map[protowire.Number][]byte)
	for len(data) > 0 {
		number, _, n := protowire.ConsumeField(data)
		invariant.Check(n > 0, "%T was encoded as what is no message", m)
		fields[number] = append(fields[number], data[:n]...)
		data = data[n:]
	}
	out := make(prints, len(fields))
	for number, raw := range fields {
		out[number] = sha256.Sum256(raw)
	}
	return out
}

// differing names the fields that are not as they were, in order of their numbers.
func differing(m proto.Message, was, is prints) (names []string) {
	numbers := maps.Clone(was)
	maps.Copy(numbers, is)
	for _, n := range slices.Sorted(maps.Keys(numbers)) {
		if was[n] == is[n] {
			continue
		}
		if f := m.ProtoReflect().Descriptor().Fields().ByNumber(n); f != nil {
			names = append(names, string(f.Name()))
		} else {
			names = append(names, fmt.Sprintf("field %d", n))
		}
	}
	return names
}

// nameOf says which object m is, and of which version.
func nameOf(m proto.Message) string {
	name := func(kind logv1.Kind, key []byte, version uint64) string {
		return fmt.Sprintf("%s %s of version %d", kindName(kind), keyName(kind, key), version)
	}
	switch m := m.(type) {
	case *modelv1.Cluster:
		return name(KindCluster, m.GetId(), m.GetMeta().GetVersion())
	case *modelv1.Node:
		return name(KindNode, m.GetId(), m.GetMeta().GetVersion())
	case *modelv1.Member:
		return name(KindMember, MemberKey(m.GetRaftId()), m.GetMeta().GetVersion())
	case *modelv1.Service:
		return name(KindService, m.GetId(), m.GetMeta().GetVersion())
	case *modelv1.Revision:
		return name(KindRevision, RevisionKey(asID(m.GetService()), m.GetNumber()), m.GetMeta().GetVersion())
	case *modelv1.Task:
		return name(KindTask, m.GetId(), m.GetDecidedIndex())
	case *modelv1.User:
		return name(KindUser, m.GetId(), m.GetMeta().GetVersion())
	case *modelv1.JoinToken:
		return name(KindToken, m.GetId(), m.GetMeta().GetVersion())
	case *modelv1.Claim:
		return name(KindClaim, ClaimKey(m.GetKind(), m.GetKey()), m.GetVersion())
	}
	return fmt.Sprintf("%T", m)
}
