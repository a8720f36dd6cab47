package issue_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/ca/issue/cfssltest"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// asking is a certificate that an external CA is asked for.
type asking struct {
	root    cfssltest.Root
	is      *issue.Issuer
	key     *ecdsa.PrivateKey
	csr     []byte
	now     time.Time
	profile ca.Profile
	user    ca.UserProfile
	record  *modelv1.Certificate // of the node
	of      *modelv1.Certificate // of the user
}

func newAsking(t *testing.T, role modelv1.Role) *asking {
	t.Helper()
	a := &asking{root: cfssltest.NewRoot(t, "outside"), now: time.Now()}
	var err error
	must := func(e error) {
		t.Helper()
		if e != nil {
			t.Fatal(e)
		}
	}
	a.is, err = issue.Outside([][]byte{a.root.DER})
	must(err)
	a.key, err = ca.NewKey()
	must(err)
	a.csr, err = ca.NewCSR(a.key)
	must(err)
	public, err := ca.ParseCSR(a.csr)
	must(err)
	a.profile = ca.Profile{Cluster: id.New(), Node: id.New(), Role: role, Generation: 7, Lifetime: 24 * time.Hour}
	a.user = ca.UserProfile{Cluster: a.profile.Cluster, User: id.New(), Name: "alice", Generation: 3, Lifetime: 8 * time.Hour}
	a.record, err = a.is.Prepare(a.profile, public, a.now)
	must(err)
	a.of, err = a.is.PrepareUser(a.user, public, a.now)
	must(err)
	return a
}

// template is what an honest CA signs for an order.
func (a *asking) template(o ca.Order, usages ...x509.ExtKeyUsage) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: o.Serial, Subject: pkix.Name{CommonName: o.Name, Organization: []string{o.Organization}}, DNSNames: o.Hosts,
		NotBefore: a.now.Add(-5 * time.Minute), NotAfter: a.now.Add(23 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usages, BasicConstraintsValid: true,
	}
}

func (a *asking) sign(t *testing.T, c *x509.Certificate, by cfssltest.Root, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	root, err := x509.ParseCertificate(by.DER)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, root, &key.PublicKey, by.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestWhatAnExternalCASaysIsJudged: a leaf that says anything else than was asked, or
// more, is refused in words.
func TestWhatAnExternalCASaysIsJudged(t *testing.T) {
	t.Parallel()
	a := newAsking(t, modelv1.Role_ROLE_WORKER)
	other, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	o, err := a.is.Order(a.profile.Cluster, a.profile.Node, a.record, a.csr)
	if err != nil || o.Profile != issue.WorkerProfile {
		t.Fatalf("profile %s, %v", o.Profile, err)
	}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	accept := func(der []byte) (*modelv1.Certificate, error) {
		_, settled, err := a.is.Accept(a.profile.Cluster, a.profile.Node, a.record, der, a.now)
		return settled, err
	}
	settled, err := accept(a.sign(t, a.template(o, both...), a.root, a.key))
	if err != nil {
		t.Fatalf("an honest one: %v", err)
	}
	if got := time.Unix(0, settled.GetNotAfter()); got.Unix() != a.now.Add(23*time.Hour).Unix() || new(big.Int).SetBytes(settled.GetSerial()).Cmp(o.Serial) != 0 ||
		settled.GetGeneration() != 7 || time.Unix(0, settled.GetIssuedAt()).Unix() != a.now.Unix() {
		t.Errorf("recorded as %v", settled)
	}
	constraint, err := asn1.Marshal("surprise")
	if err != nil {
		t.Fatal(err)
	}
	young := cfssltest.NewRoot(t, "outside")
	for name, tt := range map[string]struct {
		lie  func(*x509.Certificate)
		by   cfssltest.Root
		key  *ecdsa.PrivateKey
		says string
	}{
		"another root of that name": {by: young, says: "is not signed by the root CN=outside"},
		"another key":               {key: other, says: "for another key"},
		"another node":              {lie: func(c *x509.Certificate) { c.Subject.CommonName = id.New().String() }, says: "asked was"},
		"another cluster":           {lie: func(c *x509.Certificate) { c.Subject.Organization = []string{id.New().String()} }, says: "asked was"},
		"a unit besides":            {lie: func(c *x509.Certificate) { c.Subject.OrganizationalUnit = []string{"ops"} }, says: "asked was"},
		"an authority":              {lie: func(c *x509.Certificate) { c.IsCA = true }, says: "CA:TRUE"},
		"a manager's name": {lie: func(c *x509.Certificate) {
			c.DNSNames = append([]string{ca.ManagerName(a.profile.Cluster)}, c.DNSNames...)
		}, says: "has the names"},
		"no generation":        {lie: func(c *x509.Certificate) { c.DNSNames = c.DNSNames[:1] }, says: "has the names"},
		"an address":           {lie: func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} }, says: "1 of other kinds"},
		"a client only":        {lie: func(c *x509.Certificate) { c.ExtKeyUsage = both[1:] }, says: `"server auth" and "client auth"`},
		"for code besides":     {lie: func(c *x509.Certificate) { c.ExtKeyUsage = append(both, x509.ExtKeyUsageCodeSigning) }, says: "other uses"},
		"a use nobody knows":   {lie: func(c *x509.Certificate) { c.UnknownExtKeyUsage = []asn1.ObjectIdentifier{{1, 2, 3}} }, says: "other uses"},
		"for any use":          {lie: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }, says: "other uses"},
		"its key signs others": {lie: func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }, says: "key is for other uses"},
		"too long":             {lie: func(c *x509.Certificate) { c.NotAfter = a.now.Add(25 * time.Hour) }, says: "and 24h0m0s was asked"},
		"longer than the root": {lie: func(c *x509.Certificate) { c.NotAfter = a.now.Add(11 * 365 * 24 * time.Hour) }, says: "its root until"},
		"too short":            {lie: func(c *x509.Certificate) { c.NotAfter = a.now.Add(9 * time.Minute) }, says: "at least 10m0s is needed"},
		"over":                 {lie: func(c *x509.Certificate) { c.NotAfter = a.now.Add(-time.Minute) }, says: "at least 10m0s is needed"},
		"not yet":              {lie: func(c *x509.Certificate) { c.NotBefore = a.now.Add(time.Minute) }, says: "the clock here says"},
		"long ago":             {lie: func(c *x509.Certificate) { c.NotBefore = a.now.Add(-2 * time.Hour) }, says: "backdate by less"},
		"before its root":      {lie: func(c *x509.Certificate) { c.NotBefore = a.now.Add(-25 * time.Hour) }, says: "the root, or what leads to it"},
		"something critical": {lie: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: constraint}}
		}, says: "everybody is to understand"},
		"huge": {lie: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Value: make([]byte, 9<<10)}}
		}, says: "at most 8192"},
	} {
		c, by, key := a.template(o, both...), a.root, a.key
		if tt.lie != nil {
			tt.lie(c)
		}
		if tt.by.DER != nil {
			by = tt.by
		}
		if tt.key != nil {
			key = tt.key
		}
		if _, err := accept(a.sign(t, c, by, key)); err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", name, err, tt.says)
		}
	}
	if _, err := accept([]byte("x")); err == nil {
		t.Error("what is no certificate was taken")
	}
}

func TestAUserOfAnExternalCAIsNoServer(t *testing.T) {
	t.Parallel()
	a := newAsking(t, modelv1.Role_ROLE_MANAGER)
	o, err := a.is.OrderUser(a.user, a.of, a.csr)
	if err != nil || o.Profile != issue.UserProfile {
		t.Fatalf("profile %s, %v", o.Profile, err)
	}
	accept := func(c *x509.Certificate) ([][]byte, error) {
		chain, _, err := a.is.AcceptUser(a.user, a.of, a.sign(t, c, a.root, a.key), a.now)
		return chain, err
	}
	good := a.template(o, x509.ExtKeyUsageClientAuth)
	good.NotAfter = a.now.Add(7 * time.Hour)
	chain, err := accept(good)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := ca.NewUserCredential(chain, a.key, a.is.Roots())
	if err != nil || cred.Identity.Generation != 3 || cred.Identity.User != a.user.User {
		t.Errorf("it is of %+v, %v", cred, err)
	}
	server := *good
	server.ExtKeyUsage = append(server.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	if _, err := accept(&server); err == nil || !strings.Contains(err.Error(), `"client auth" alone`) {
		t.Errorf("as a server: %v", err)
	}
	long := *good
	long.NotAfter = a.now.Add(9 * time.Hour)
	var unfit ca.Unfit
	if _, err := accept(&long); !errors.As(err, &unfit) {
		t.Errorf("longer than the user asked: %v, want no fault of the CA", err)
	}
}

// TestARequestThatSaysMoreIsNotPassedOn: else its maker could have an external CA blamed.
func TestARequestThatSaysMoreIsNotPassedOn(t *testing.T) {
	t.Parallel()
	a := newAsking(t, modelv1.Role_ROLE_WORKER)
	for name, c := range map[string]*x509.CertificateRequest{
		"a subject": {Subject: pkix.Name{OrganizationalUnit: []string{"ops"}}},
		"a name":    {DNSNames: []string{"manager"}},
	} {
		csr, err := x509.CreateCertificateRequest(rand.Reader, c, a.key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.is.Order(a.profile.Cluster, a.profile.Node, a.record, csr); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := a.is.Sign(a.profile.Cluster, a.profile.Node, a.record, a.csr); err == nil || !strings.Contains(err.Error(), "not held here") {
		t.Errorf("signed without a key: %v", err)
	}
}

func TestACrossCertificateIsOfBothRoots(t *testing.T) {
	t.Parallel()
	from, next, other := cfssltest.NewRoot(t, "from"), cfssltest.NewRoot(t, "next"), cfssltest.NewRoot(t, "other")
	if err := issue.CheckCross(from.DER, next.DER, from.Cross(t, next.DER)); err != nil {
		t.Error(err)
	}
	for name, cross := range map[string][]byte{"of another": from.Cross(t, other.DER), "by another": other.Cross(t, next.DER), "the root itself": next.DER, "nothing": []byte("x")} {
		if issue.CheckCross(from.DER, next.DER, cross) == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
