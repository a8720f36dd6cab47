package backup_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"pgregory.net/rapid"

	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/manager/backup"
	"github.com/skep-project/skep/manager/store"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func written(t fatal, s *store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := backup.Write(&b, s.Snapshot(), backup.About{Node: id.New(), At: born}); err != nil {
		t.Fatalf("write: %v", err)
	}
	return b.Bytes()
}

func encoded(t fatal, s *store.Store) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot().Encode(&b); err != nil {
		t.Fatalf("encode: %v", err)
	}
	return b.Bytes()
}

func TestWhatIsReadIsWhatWasWrittenAndBelongsTogether(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := random(t)
		data := written(t, s.store)
		im, err := backup.Read(bytes.NewReader(data))
		if err != nil {
			t.Fatalf("read: %v", err)
		}
		if !bytes.Equal(encoded(t, s.store), encoded(t, im.Store)) {
			t.Fatalf("the state that was read is not the one that was written")
		}
		if faults := im.Check(born.Add(time.Hour)); len(faults) > 0 {
			t.Fatalf("a good state has faults: %q", faults)
		}
		n := s.store.Snapshot().Census()
		p := im.Preview()
		if len(p.Nodes) != n.Nodes || len(p.Services) != n.Services || !p.WorkerToken || !p.RootNotAfter.After(born) {
			t.Fatalf("the preview shows %+v", p)
		}
	})
}

func TestASnapshotIsWrittenAsItWasWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	s := small(t)
	snap := s.store.Snapshot()
	want := encoded(t, s.store)
	r, w := io.Pipe()
	go func() {
		_, err := backup.Write(w, snap, backup.About{At: born})
		w.CloseWithError(err)
	}()
	first := make([]byte, 1)
	if _, err := io.ReadFull(r, first); err != nil {
		t.Fatal(err)
	}
	for range 100 { // while the rest is being written
		s.do(t, putNode(id.New(), nil))
	}
	im, err := backup.Read(io.MultiReader(bytes.NewReader(first), r))
	if err != nil {
		t.Fatal(err)
	}
	if got := encoded(t, im.Store); !bytes.Equal(got, want) {
		t.Error("the backup holds what was written after it began")
	}
}

func TestEveryChangedByteIsFound(t *testing.T) {
	t.Parallel()
	data := written(t, small(t).store)
	for i := range data {
		spoilt := slices.Clone(data)
		spoilt[i] ^= 0x10
		if _, err := backup.Read(bytes.NewReader(spoilt)); err == nil {
			t.Errorf("byte %d of %d changed, and nobody noticed", i, len(data))
		}
	}
}

func TestEveryCutIsFound(t *testing.T) {
	t.Parallel()
	data := written(t, small(t).store)
	for i := range data {
		if _, err := backup.Read(bytes.NewReader(data[:i])); err == nil {
			t.Errorf("cut after %d of %d bytes, and nobody noticed", i, len(data))
		} else if i > len(backup.Magic) && !errors.Is(err, backup.ErrDamaged) {
			t.Errorf("cut after %d bytes: %v, want it called damaged", i, err)
		}
	}
	if _, err := backup.Read(bytes.NewReader(append(data, 0))); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestWhatIsNoBackupOrOfAnotherFormatIsSaidInWords(t *testing.T) {
	t.Parallel()
	data := written(t, small(t).store)
	later := slices.Clone(data)
	later[len(backup.Magic)] = 2
	for name, tt := range map[string]struct {
		data []byte
		want string
		kind error
	}{
		"nothing":        {nil, "this is no backup of a swarm", errdefs.ErrInvalidArgument},
		"something":      {[]byte("#!/bin/sh\necho hello, world\n"), "this is no backup of a swarm", errdefs.ErrInvalidArgument},
		"a later format": {later, "the backup is of format 2, this version reads format 1: use the version that wrote it", errdefs.ErrNotImplemented},
	} {
		_, err := backup.Read(bytes.NewReader(tt.data))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestALaterFeatureLevelIsRefused(t *testing.T) {
	t.Parallel()
	s := small(t)
	s.do(t, putCluster(id.New(), func(c *modelv1.Cluster) { c.FeatureLevel = 1 << 30 }))
	_, err := backup.Read(bytes.NewReader(written(t, s.store)))
	if err == nil || !strings.Contains(err.Error(), "feature level") || !errors.Is(err, errdefs.ErrNotImplemented) {
		t.Errorf("%v, want a refusal of its feature level", err)
	}
}

func TestAReaderThatFailsIsNotTakenForDamage(t *testing.T) {
	t.Parallel()
	data := written(t, small(t).store)
	broken := errors.New("the disk is gone")
	for _, at := range []int{0, 5, 40, len(data) / 2, len(data) - 10} {
		_, err := backup.Read(io.MultiReader(bytes.NewReader(data[:at]), failing{broken}))
		if !errors.Is(err, broken) || errors.Is(err, backup.ErrDamaged) {
			t.Errorf("a reader that fails after %d bytes: %v", at, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestAStateThatContradictsItselfIsFoundOut(t *testing.T) {
	t.Parallel()
	other := id.New()
	for name, tt := range map[string]struct {
		spoil func(s *sample) []*logv1.Operation
		want  string
	}{
		"a root that is none": {one(putCluster(other, func(c *modelv1.Cluster) { c.Root.Certificates = [][]byte{{1}} })), "root certificate 1"},
		"another key":         {one(putCluster(other, func(c *modelv1.Cluster) { c.Root.Key = nil })), "the root's key is not that of its certificate"},
		"a service without revision": {spoilt(func(s *sample) *logv1.Operation {
			return putService(s.web, "web", func(v *modelv1.Service) { v.Target, v.LastRevision = 9, 9 })
		}), "service web names its revision 9, which does not exist"},
		"a revision too many":     {spoilt(func(s *sample) *logv1.Operation { return putRevision(s.web, 8) }), "has a revision 8 and has made only 1"},
		"a revision of nothing":   {one(putRevision(other, 1)), "which does not exist"},
		"a task without revision": {spoilt(func(s *sample) *logv1.Operation { return createTask(id.New(), s.web, s.nodes[0], 5) }), "runs revision 5"},
		"a stolen name": {spoilt(func(s *sample) *logv1.Operation {
			return putService(other, "web", func(v *modelv1.Service) { v.Current = 0 })
		}), "does not hold its name"},
		"a claim of nobody":       {one(claim(store.ClaimServiceName, "db", other)), `the name "db" belongs to service`},
		"another claim of nobody": {one(claim("port", "80", other)), "which does not exist"},
		"a name of no node":       {one(claim(store.ClaimNodeName, "x", other)), `the name "x" belongs to node`},
		"an enrolment of nobody":  {one(claim(store.ClaimEnrolmentKey, "00", other)), "which did not enrol with it"},
		"a node without a name":   {one(putNode(other, func(n *modelv1.Node) { n.Spec.Name = "first" })), "does not hold its name"},
		"a member of no node":     {one(putMember(9, other, "x:1")), "which does not exist"},
		"a member of no address":  {spoilt(func(s *sample) *logv1.Operation { return putMember(9, s.nodes[0], "") }), "has no address"},
		"a foreign certificate":   {one(putNode(other, func(n *modelv1.Node) { n.Current.Issuer = []byte("x") })), "signed by none of the roots"},
		"no certificate":          {one(putNode(other, func(n *modelv1.Node) { n.Current = nil })), "has no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := small(t)
			s.do(t, tt.spoil(s)...)
			im, err := backup.Read(bytes.NewReader(written(t, s.store)))
			if err != nil {
				t.Fatal(err)
			}
			if faults := im.Check(born.Add(time.Hour)); !strings.Contains(strings.Join(faults, "\n"), tt.want) {
				t.Errorf("faults %q, want one with %q", faults, tt.want)
			}
		})
	}
}

func one(op *logv1.Operation) func(*sample) []*logv1.Operation {
	return func(*sample) []*logv1.Operation { return []*logv1.Operation{op} }
}

func spoilt(op func(*sample) *logv1.Operation) func(*sample) []*logv1.Operation {
	return func(s *sample) []*logv1.Operation { return []*logv1.Operation{op(s)} }
}

func TestARootThatHasEndedIsAFault(t *testing.T) {
	t.Parallel()
	im, err := backup.Read(bytes.NewReader(written(t, small(t).store)))
	if err != nil {
		t.Fatal(err)
	}
	if faults := im.Check(born.AddDate(30, 0, 0)); len(faults) != 1 || !strings.Contains(faults[0], "the root is valid from") {
		t.Errorf("thirty years later: %q", faults)
	}
}

func TestManyFaultsAreNotAllSaid(t *testing.T) {
	t.Parallel()
	s := small(t)
	for i := range 200 {
		s.do(t, claim("port", fmt.Sprint(i), id.New()))
	}
	im, err := backup.Read(bytes.NewReader(written(t, s.store)))
	if err != nil {
		t.Fatal(err)
	}
	faults := im.Check(born.Add(time.Hour))
	if len(faults) != 51 || faults[50] != "150 more of the kind" {
		t.Errorf("%d faults, the last %q", len(faults), faults[len(faults)-1])
	}
}

func FuzzRead(f *testing.F) {
	data := written(f, small(f).store)
	f.Add(data)
	f.Add(data[:40])
	f.Add([]byte(backup.Magic))
	f.Fuzz(func(t *testing.T, data []byte) {
		// A good sum behind whatever the fuzzer made gets it past the last check.
		sum := sha256.Sum256(data)
		for _, in := range [][]byte{data, append(slices.Clone(data), sum[:]...)} {
			im, err := backup.Read(bytes.NewReader(in))
			if err != nil {
				continue
			}
			im.Check(born)
			im.Preview()
			if again := written(t, im.Store); len(again) == 0 {
				t.Error("what was read cannot be written")
			}
		}
	})
}
