package keystore_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/ca/keystore"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func open(t *testing.T, path string) (*keystore.Store, error) {
	t.Helper()
	dir, err := os.OpenRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return keystore.Open(dir)
}

func newNode(t *testing.T) *keystore.Node {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return newNodeOf(t, key)
}

func newNodeOf(t *testing.T, priv *ecdsa.PrivateKey) *keystore.Node {
	t.Helper()
	cluster, node, now := id.New(), id.New(), time.Now()
	root, key, err := issue.NewRoot(cluster, now)
	if err != nil {
		t.Fatal(err)
	}
	is, err := issue.New([][]byte{root}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(priv)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	record, err := is.Prepare(ca.Profile{Cluster: cluster, Node: node, Role: modelv1.Role_ROLE_MANAGER, Generation: 1, Lifetime: time.Hour}, pub, now)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := is.Sign(cluster, node, record, csr)
	if err != nil {
		t.Fatal(err)
	}
	return &keystore.Node{Key: priv, Chain: chain, Roots: [][]byte{root}, IssuedAt: now, Facts: keystore.Facts{
		Advertise: "10.0.0.1:2377", Listen: "0.0.0.0:2377", Availability: modelv1.Availability_AVAILABILITY_DRAIN,
		Managers: &cav1.ManagerList{Index: 7, Managers: []*cav1.Manager{{Address: "10.0.0.1:2377"}}}, ListedAt: now,
	}}
}

func TestIdentityReadsBackAfterARestart(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Load(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty store loads with %v, want not to exist", err)
	}
	want := newNode(t)
	if err := s.Save(want); err != nil {
		t.Fatal(err)
	}
	if s, err = open(t, path); err != nil {
		t.Fatal(err)
	}
	got, err := s.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !got.Key.Equal(want.Key) || !got.IssuedAt.Equal(want.IssuedAt) || got.Facts.Advertise != want.Facts.Advertise ||
		got.Facts.Availability != want.Facts.Availability || !proto.Equal(got.Facts.Managers, want.Facts.Managers) ||
		!got.Facts.ListedAt.Equal(want.Facts.ListedAt) || !bytes.Equal(got.Chain[0], want.Chain[0]) {
		t.Errorf("read back %+v, want %+v", got.Facts, want.Facts)
	}
}

func TestNothingSecretLiesInClear(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t)
	ring := &logv1.Ring{Active: 1, Keys: []*logv1.RingKey{{Id: 1, Key: bytes.Repeat([]byte{0xab}, 32)}}}
	pending, err := s.Pending()
	if err := errors.Join(err, s.Save(n), s.SaveRing(ring)); err != nil {
		t.Fatal(err)
	}
	d1, err1 := n.Key.Bytes()
	d2, err2 := pending.Bytes()
	pkcs8, err3 := x509.MarshalPKCS8PrivateKey(n.Key)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(path, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range [][]byte{d1, d2, pkcs8, ring.GetKeys()[0].GetKey()} {
			if bytes.Contains(text, secret) {
				t.Errorf("%s holds a secret in clear", f.Name())
			}
		}
		if info, err := f.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", f.Name(), info.Mode())
		}
	}
	got, err := s.LoadRing()
	if err != nil || !proto.Equal(got, ring) {
		t.Errorf("ring reads back as %v keys, %v", len(got.GetKeys()), err)
	}
	if err := s.RemoveRing(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadRing(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
}

func TestPendingKeyStaysUntilItIsCleared(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.Pending()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = open(t, path); err != nil { // the daemon died and is back
		t.Fatal(err)
	}
	if again, err := s.Pending(); err != nil || !again.Equal(first) {
		t.Errorf("after a restart the pending key is another one (%v)", err)
	}
	if err := s.ClearPending(); err != nil {
		t.Fatal(err)
	}
	if next, err := s.Pending(); err != nil || next.Equal(first) {
		t.Errorf("after it was cleared the pending key is the same (%v)", err)
	}
}

func TestARequestToJoinIsKeptSealedThroughARelockAndForgottenWithTheRest(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := open(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadRequest(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("at first: %v, want none", err)
	}
	want := sealed.NewSecret([]byte("a token is in it"))
	if err := s.SaveRequest(want); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "pending-join")); err != nil || bytes.Contains(data, want.Reveal()) {
		t.Errorf("it lies there in clear, %v", err)
	}
	if err := s.Relock(sealed.NewUnlockKey(), 1, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.LoadRequest(); err != nil || !got.Equal(want) {
		t.Errorf("after a relock: %v", err)
	}
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadRequest(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after a wipe: %v, want none", err)
	}
}

func TestAKeyThatIsInUseIsNotPending(t *testing.T) {
	t.Parallel()
	s, err := open(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	key, err := s.Pending()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Save(newNodeOf(t, key)); err != nil { // and the daemon dies before ClearPending
		t.Fatal(err)
	}
	next, err := s.Pending()
	if err != nil || next.Equal(key) {
		t.Errorf("the next renewal asks for the key in use (%v)", err)
	}
	if again, err := s.Pending(); err != nil || !again.Equal(next) {
		t.Errorf("the next key is not kept (%v)", err)
	}
}

func TestDamageIsToldInWords(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		damage func(t *testing.T, path string)
		kind   error
		words  string
	}{
		{"a newer format", edit("identity.json", `"format":1`, `"format":9`), errdefs.ErrNotImplemented, "format 9"},
		{"a changed fact", edit("identity.json", "10.0.0.1", "10.0.0.9"), errdefs.ErrDataLoss, "checksum"},
		{"not a file of ours", edit("identity.json", `{"format"`, `xx`), errdefs.ErrDataLoss, "not an identity file"},
		{"the key of another node", func(t *testing.T, path string) {
			write(t, filepath.Join(path, "kek"), bytes.Repeat([]byte{1}, 32))
		}, errdefs.ErrPermissionDenied, "does not open"},
		{"a cut key", func(t *testing.T, path string) { write(t, filepath.Join(path, "kek"), []byte("x")) }, errdefs.ErrDataLoss, "kek has 1 bytes"},
		{"a lost key", func(t *testing.T, path string) {
			if err := os.Remove(filepath.Join(path, "kek")); err != nil {
				t.Fatal(err)
			}
		}, errdefs.ErrDataLoss, "kek is missing"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			path := t.TempDir()
			s, err := open(t, path)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.Save(newNode(t)); err != nil {
				t.Fatal(err)
			}
			tt.damage(t, path)
			if s, err = open(t, path); err == nil {
				_, err = s.Load()
			}
			if !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("error %v, want %v with %q", err, tt.kind, tt.words)
			}
		})
	}
}

func edit(name, from, to string) func(*testing.T, string) {
	return func(t *testing.T, path string) {
		file := filepath.Join(path, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		write(t, file, bytes.ReplaceAll(text, []byte(from), []byte(to)))
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestWipeLeavesANewStore(t *testing.T) {
	t.Parallel()
	path := t.TempDir()
	s, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	old := s.KEK()
	_, err = s.Pending()
	if err := errors.Join(err, s.Save(newNode(t)), s.SaveRing(&logv1.Ring{}), s.Wipe(), s.Wipe()); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(path); err != nil || len(files) != 1 || files[0].Name() != "kek" {
		t.Errorf("%v are left (%v), want a key-encryption key alone", files, err)
	}
	if s.KEK().Equal(old) {
		t.Error("the key-encryption key outlives what it sealed")
	}
	// A node that joins again without a restart between.
	n := newNode(t)
	if err := s.Save(n); err != nil {
		t.Fatal(err)
	}
	again, err := open(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := again.Load(); err != nil || !got.Key.Equal(n.Key) {
		t.Errorf("the identity saved after a wipe: %v", err)
	}
}

func TestSaveRefusesPartsThatDoNotBelongTogether(t *testing.T) {
	t.Parallel()
	s, err := open(t, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	n, other := newNode(t), newNode(t)
	n.Key = other.Key
	if err := s.Save(n); err == nil {
		t.Error("a chain was saved with another one's key")
	}
}
