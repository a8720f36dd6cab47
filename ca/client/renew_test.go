package client_test

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/client"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const life = 10 * 24 * time.Hour

// office is an authority without a network, and a node without a disk.
type office struct {
	t       *testing.T
	cluster id.ID
	node    id.ID
	issuer  *issue.Issuer
	holder  ca.Holder

	life time.Duration // of what it issues

	mu      sync.Mutex // guards what follows against the test's changes
	role    modelv1.Role
	records map[ca.Digest]*modelv1.Certificate
	last    uint64
	pending *ecdsa.PrivateKey
	keys    int
	saved   int
	// fail, if set, may end a request before or after the record was made.
	fail  func(recorded bool) error
	asked []time.Time
}

func newOffice(t *testing.T) *office { return officeOf(t, life) }

func officeOf(t *testing.T, life time.Duration) *office {
	t.Helper()
	o := &office{t: t, life: life, cluster: id.New(), node: id.New(), role: modelv1.Role_ROLE_WORKER, records: map[ca.Digest]*modelv1.Certificate{}}
	root, key, err := issue.NewRoot(o.cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if o.issuer, err = issue.New([][]byte{root}, key); err != nil {
		t.Fatal(err)
	}
	priv, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(priv)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := o.renew(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := client.Accept(issued, priv)
	if err != nil {
		t.Fatal(err)
	}
	o.holder.Set(cred)
	o.asked = nil
	return o
}

// set changes the office while a renewer runs.
func (o *office) set(change func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change()
}

func (o *office) renew(_ context.Context, csr []byte) (*cav1.Issued, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, time.Now())
	if o.fail != nil {
		if err := o.fail(false); err != nil {
			return nil, err
		}
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	record := o.records[pub.SHA256]
	if record == nil {
		o.last++
		p := ca.Profile{Cluster: o.cluster, Node: o.node, Role: o.role, Generation: o.last, Lifetime: o.life}
		if record, err = o.issuer.Prepare(p, pub, time.Now()); err != nil {
			return nil, err
		}
		o.records[pub.SHA256] = record
	}
	if o.fail != nil {
		if err := o.fail(true); err != nil {
			return nil, err
		}
	}
	chain, err := o.issuer.Sign(o.cluster, o.node, record, csr)
	if err != nil {
		return nil, err
	}
	return &cav1.Issued{Cluster: o.cluster.Bytes(), Node: o.node.Bytes(), Role: record.GetRole(), Chain: chain,
		Roots: o.issuer.Roots().DER(), IssuedAt: record.GetIssuedAt()}, nil
}

// start runs a renewer until the test ends.
func (o *office) start(roll func() float64) *client.Renewer {
	o.t.Helper()
	r, err := client.NewRenewer(client.RenewerConfig{
		Holder: &o.holder,
		Pending: func() (*ecdsa.PrivateKey, error) {
			if o.pending == nil {
				o.keys++
				var err error
				if o.pending, err = ca.NewKey(); err != nil {
					return nil, err
				}
			}
			return o.pending, nil
		},
		Save: func(*ca.Credential, *ecdsa.PrivateKey, *cav1.ManagerList) error {
			o.saved++
			o.pending = nil
			return nil
		},
		Renew: o.renew, Roll: roll, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		o.t.Fatal(err)
	}
	go func() { _ = r.Run(o.t.Context()) }()
	return r
}

func TestRenewerKeepsUpForAYear(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		begin := time.Now()
		o.start(nil)
		for range 365 {
			time.Sleep(24 * time.Hour)
			synctest.Wait()
			if time.Now().After(o.holder.Get().Identity.NotAfter) {
				t.Fatalf("after %v the certificate has expired", time.Since(begin))
			}
		}
		if n := len(o.asked); n < 365/8 || n > 365/5 {
			t.Errorf("renewed %d times in a year of 10-day certificates, want %d to %d", n, 365/8, 365/5)
		}
	})
}

func TestRenewerBacksOffWithTheSameKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		o.fail = func(bool) error { return errors.New("nobody is there") }
		o.start(func() float64 { return 0.5 })
		time.Sleep(life) // past the end, and still trying
		synctest.Wait()
		for i := 2; i < len(o.asked); i++ {
			gap, before := o.asked[i].Sub(o.asked[i-1]), o.asked[i-1].Sub(o.asked[i-2])
			if gap != min(2*before, time.Hour) {
				t.Fatalf("try %d came after %v, want twice %v up to an hour", i, gap, before)
			}
		}
		if o.keys != 1 {
			t.Errorf("%d keys were made for one renewal", o.keys)
		}
		o.set(func() { o.fail = nil })
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if o.saved != 1 || time.Now().After(o.holder.Get().Identity.NotAfter) {
			t.Errorf("saved %d times once the authority was back, want 1", o.saved)
		}
	})
}

// TestAShortCertificateIsTriedForUntilItsEnd: nobody answers from before the first
// try until 45 seconds before the end.
func TestAShortCertificateIsTriedForUntilItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, roll := range []float64{0, 0.5, 0.999} {
			o := officeOf(t, ca.MinExpiry)
			o.fail = func(bool) error { return errors.New("nobody is there") }
			o.start(func() float64 { return roll })
			end := o.holder.Get().Identity.NotAfter
			time.Sleep(time.Until(end) - 45*time.Second)
			o.set(func() { o.fail = nil })
			time.Sleep(time.Until(end))
			synctest.Wait()
			if who := o.holder.Get().Identity; who.Generation != 2 {
				t.Errorf("roll %v: generation %d when the first one ended, want 2", roll, who.Generation)
			}
		}
	})
}

func TestALostAnswerCostsARetryAndNoGeneration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		lost := 0
		o.fail = func(recorded bool) error {
			if recorded && lost < 3 {
				lost++
				return errors.New("the answer was lost")
			}
			return nil
		}
		o.start(func() float64 { return 0 })
		time.Sleep(life/2 + time.Minute)
		synctest.Wait()
		if got := o.holder.Get().Identity.Generation; got != 2 || lost != 3 {
			t.Errorf("generation %d after %d lost answers, want 2 after 3", got, lost)
		}
	})
}

func TestADemandRenewsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		r := o.start(nil)
		synctest.Wait()
		if at := r.NextAt(); at.Before(time.Now().Add(life / 2)) {
			t.Errorf("next renewal at %v, want after half the life", at)
		}
		o.set(func() { o.role = modelv1.Role_ROLE_MANAGER })
		r.Now(modelv1.Role_ROLE_MANAGER)
		r.Now(modelv1.Role_ROLE_MANAGER) // one that waits stands for all
		time.Sleep(time.Second)
		synctest.Wait()
		if who := o.holder.Get().Identity; who.Role != modelv1.Role_ROLE_MANAGER {
			t.Errorf("a second after the demand the node is %v", who.Role)
		}
		r.Now(modelv1.Role_ROLE_MANAGER) // the record was read before the answer came
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(o.asked); n != 1 {
			t.Errorf("%d renewals for one role", n)
		}
		for i := range 10 { // a record that flutters
			r.Now([]modelv1.Role{modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_MANAGER}[i%2])
			synctest.Wait()
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := len(o.asked); n > 5 {
			t.Errorf("%d renewals for a burst of demands, want few", n)
		}
	})
}

func TestAcceptRefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	good, err := o.renew(t.Context(), csr)
	if err != nil {
		t.Fatal(err)
	}
	other := newOffice(t)
	for name, change := range map[string]func(*cav1.Issued){
		"another key":     func(i *cav1.Issued) { i.Chain = other.holder.Get().Chain; i.Roots = other.issuer.Roots().DER() },
		"other roots":     func(i *cav1.Issued) { i.Roots = other.issuer.Roots().DER() },
		"another node":    func(i *cav1.Issued) { i.Node = id.New().Bytes() },
		"another cluster": func(i *cav1.Issued) { i.Cluster = id.New().Bytes() },
		"another role":    func(i *cav1.Issued) { i.Role = modelv1.Role_ROLE_MANAGER },
		"no chain":        func(i *cav1.Issued) { i.Chain = nil },
	} {
		bad := &cav1.Issued{Cluster: good.GetCluster(), Node: good.GetNode(), Role: good.GetRole(), Chain: good.GetChain(),
			Roots: good.GetRoots(), IssuedAt: good.GetIssuedAt()}
		change(bad)
		if _, err := client.Accept(bad, key); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := client.Accept(good, key); err != nil {
		t.Error(err)
	}
}

func TestADemandForAnotherRootIsSpreadAndForgottenWhenMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOffice(t)
		asked := func() (n int) { o.set(func() { n = len(o.asked) }); return n }
		first := ca.RootDigest(o.holder.Get().Roots.DER()[0])
		r := o.start(func() float64 { return 0.5 })
		synctest.Wait()
		r.Under(first, time.Hour) // it is of that root
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := asked(); n != 0 {
			t.Fatalf("%d renewals for the root it has", n)
		}
		root, key, err := issue.NextRoot(o.holder.Get().Identity.Cluster, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		roots := append([][]byte{root}, o.holder.Get().Roots.DER()...)
		bundle, err := ca.ParseBundle(roots)
		if err != nil {
			t.Fatal(err)
		}
		cred, err := o.holder.Get().With(bundle)
		if err != nil {
			t.Fatal(err)
		}
		o.holder.Set(cred)
		next, err := issue.New(roots, key)
		if err != nil {
			t.Fatal(err)
		}
		o.set(func() { o.issuer = next })
		r.Under(ca.RootDigest(root), time.Hour)
		time.Sleep(29 * time.Minute)
		synctest.Wait()
		if n := asked(); n != 0 {
			t.Errorf("%d renewals before the moment that was drawn", n)
		}
		time.Sleep(2 * time.Minute)
		r.Under(ca.RootDigest(root), time.Hour)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if n := asked(); n != 1 || !o.holder.Get().SignedBy(ca.RootDigest(root)) {
			t.Errorf("%d renewals, and the certificate is of the next root: %v", n, o.holder.Get().SignedBy(ca.RootDigest(root)))
		}
	})
}
