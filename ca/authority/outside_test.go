package authority

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/ca/issue/cfssltest"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// outside gives the book a root whose key is at a real cfssl.
func outside(t *testing.T) (*Server, *book, *cfssltest.Server, cfssltest.Root) {
	t.Helper()
	s, b := newBook(t)
	var n cfssltest.Net
	root := cfssltest.NewRoot(t, "outside")
	ca := root.Serve(t, n.Listen("one:8888"), root.Handler(t, nil))
	b.cluster.Roots, b.cluster.Key, b.cluster.External = [][]byte{root.DER}, b.cluster.WorkerToken, []*modelv1.ExternalCA{ca.At}
	s.outside = external.New(external.Config{Dial: n.Dial})
	return s, b, ca, root
}

// TestWhatAnExternalCASignedIsRecordedBeforeItLeaves, as it was signed; and a request
// that is repeated gets the same generation again.
func TestWhatAnExternalCASignedIsRecordedBeforeItLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b, server, _ := outside(t)
		key, err := ca.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ca.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		req := &cav1.EnrollRequest{Token: b.token(true), Csr: csr}
		var serials [][]byte
		for range 2 {
			resp, err := s.Enroll(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			cred, err := client.Accept(resp.GetIssued(), key)
			if err != nil {
				t.Fatal(err)
			}
			got := b.settled[len(b.settled)-1]
			if !bytes.Equal(got.GetSerial(), cred.Leaf.SerialNumber.Bytes()) || got.GetNotAfter() != cred.Leaf.NotAfter.UnixNano() || got.GetNotBefore() != cred.Leaf.NotBefore.UnixNano() ||
				cred.Identity.Generation != 1 || cred.Identity.Role != modelv1.Role_ROLE_MANAGER || resp.GetIssued().GetIssuedAt() != time.Now().UnixNano() {
				t.Errorf("recorded is %v, given %+v", got, cred.Identity)
			}
			serials = append(serials, got.GetSerial())
			time.Sleep(time.Hour)
		}
		if len(b.records) != 1 || bytes.Equal(serials[0], serials[1]) {
			t.Errorf("%d records, serials %x", len(b.records), serials)
		}
		b.err = errdefs.ErrUnavailable // the leader is lost before it is recorded
		if resp, err := s.Enroll(t.Context(), req); err == nil {
			t.Errorf("it left without a record: %v", resp)
		}
		b.err = nil
		server.Stop()
		if _, err := s.Enroll(t.Context(), req); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the external CA does not sign: https://one:8888: ") {
			t.Errorf("with a dead CA: %v", err)
		}
	})
}

func TestAUserIsCertifiedByAnExternalCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b, _, root := outside(t)
		key, err := ca.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		csr, err := ca.NewCSR(key)
		if err != nil {
			t.Fatal(err)
		}
		public, err := ca.ParseCSR(csr)
		if err != nil {
			t.Fatal(err)
		}
		sign := func(life time.Duration) error {
			p := ca.UserProfile{Cluster: b.cluster.ID, User: id.New(), Name: "alice", Generation: 2, Lifetime: life}
			record, err := s.PrepareUser(t.Context(), p, public, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			chain, roots, err := s.SignUser(t.Context(), p, record, csr)
			if err != nil {
				return err
			}
			bundle, err := ca.ParseBundle(roots)
			if err != nil {
				t.Fatal(err)
			}
			cred, err := ca.NewUserCredential(chain, key, bundle)
			if err != nil || cred.Identity.Generation != 2 || !cred.SignedBy(ca.RootDigest(root.DER)) || len(b.settled) != 1 {
				t.Errorf("he has %+v, %v", cred, err)
			}
			return nil
		}
		if err := sign(ca.UserLifetime); err != nil {
			t.Error(err)
		}
		if err := sign(time.Hour); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "skep-user") {
			t.Errorf("for an hour: %v", err)
		}
	})
}

func TestTheNextRootIsOutside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, b, server, root := outside(t)
		_, home := newBook(t)
		from := &modelv1.RootKey{Certificate: home.cluster.Roots[0], Key: home.cluster.Key.Reveal()}
		next := Succession{Cluster: b.cluster.ID, From: from, To: &modelv1.RootKey{Certificate: root.DER, External: []*modelv1.ExternalCA{server.At}}}
		to, cross, err := s.NextRoot(t.Context(), next, time.Now())
		if err != nil || len(to.GetKey()) > 0 || len(cross) == 0 || len(to.GetVia()) != 2 {
			t.Fatalf("it is %v, %v", to, err)
		}
		// Away from there: not without a cross certificate, and not with just any.
		own := cfssltest.NewRoot(t, "own")
		away := Succession{Cluster: b.cluster.ID, From: to, To: &modelv1.RootKey{Certificate: own.DER, Key: own.Secret(t).Reveal()}}
		if _, _, err := s.NextRoot(t.Context(), away, time.Now()); err == nil || !strings.Contains(err.Error(), "--cross-cert") {
			t.Errorf("without a cross certificate: %v", err)
		}
		away.Cross = own.Cross(t, root.DER)
		if _, _, err := s.NextRoot(t.Context(), away, time.Now()); err == nil || !strings.Contains(err.Error(), "not signed by the present root") {
			t.Errorf("with that of another: %v", err)
		}
		away.Cross = root.Cross(t, own.DER)
		last, _, err := s.NextRoot(t.Context(), away, time.Now())
		if err != nil || len(last.GetVia()) != 4 {
			t.Errorf("with its own, from roots before with it: %d certificates, %v", len(last.GetVia()), err)
		}
		// A CA backdates: what leads to its root has to be older than that.
		young := Succession{Cluster: b.cluster.ID, From: &modelv1.RootKey{Certificate: own.DER, Key: own.Secret(t).Reveal()}, To: next.To}
		if _, _, err := s.NextRoot(t.Context(), young, time.Now()); err != nil {
			t.Errorf("from a root of yesterday: %v", err)
		}
		young.Cross = root.Young(t, own)
		if _, _, err := s.NextRoot(t.Context(), young, time.Now()); err == nil || !strings.Contains(err.Error(), "ask again when") {
			t.Errorf("by a cross certificate of now: %v", err)
		}
		made := Succession{Cluster: b.cluster.ID, From: to}
		if _, _, err := s.NextRoot(t.Context(), made, time.Now()); err == nil || !strings.Contains(err.Error(), "--cross-cert") {
			t.Errorf("one that the managers would make: %v", err)
		}
		if _, err := s.TryOutside(t.Context(), b.cluster.ID, nil, &modelv1.RootKey{Certificate: own.DER, External: []*modelv1.ExternalCA{server.At}}, nil); err == nil {
			t.Error("a CA of another root passed")
		}
	})
}
