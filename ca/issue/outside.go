package issue

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// What an external CA is asked for, by kind of leaf: names of profiles. cfssl takes
// its default for a profile that it does not have.
const (
	WorkerProfile  = "skep-worker"
	ManagerProfile = "skep-manager"
	UserProfile    = "skep-user"
)

const (
	// roundingOutside is by how much a leaf may live longer than was asked: cfssl
	// counts from the nearest minute.
	roundingOutside = time.Minute
	// maxBackdateOutside is how far before it was signed a leaf may begin to count: as
	// far as one of ours (R21), rounded.
	maxBackdateOutside = time.Hour + roundingOutside
	// maxLeaf bounds a leaf, in bytes.
	maxLeaf = 8 << 10
)

// Outside returns the issuer of a root whose key is elsewhere: it says what is to be
// asked of who has it (Order) and judges what comes back (Accept). It signs nothing.
func Outside(certificates [][]byte) (*Issuer, error) {
	bundle, err := ca.ParseBundle(certificates)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	root, err := x509.ParseCertificate(certificates[0])
	if err != nil {
		return nil, fmt.Errorf("issuer: root certificate: %w", err)
	}
	return &Issuer{root: root, bundle: bundle, floor: root.NotBefore}, nil
}

// IsOutside reports whether the key that signs is elsewhere.
func (is *Issuer) IsOutside() bool { return is.signer == nil }

// Order is what to ask an external CA for, for the recorded certificate of a node.
// The serial is drawn anew each time: a CA that keeps a list signs none twice.
func (is *Issuer) Order(cluster, node id.ID, record *modelv1.Certificate, request []byte) (ca.Order, error) {
	own := ca.NodeName(cluster, node)
	o := ca.Order{Name: node.String(), Organization: cluster.String(), Hosts: nodeHosts(cluster, node, record), Profile: WorkerProfile}
	if record.GetRole() == modelv1.Role_ROLE_MANAGER {
		o.Profile = ManagerProfile
	}
	return is.order(o, record, request, own)
}

// OrderUser is Order for the recorded certificate of a user.
func (is *Issuer) OrderUser(p ca.UserProfile, record *modelv1.Certificate, request []byte) (ca.Order, error) {
	own := ca.UserName(p.Cluster, p.User)
	return is.order(ca.Order{Name: p.Name, Organization: p.Cluster.String(), Hosts: []string{own, ca.GenerationName(record.GetGeneration(), own)}, Profile: UserProfile},
		record, request, own)
}

// nodeHosts are all names of a node's leaf, the one that says its generation with
// them.
func nodeHosts(cluster, node id.ID, record *modelv1.Certificate) []string {
	p := ca.Profile{Cluster: cluster, Node: node, Role: record.GetRole()}
	return append(p.Names(), ca.GenerationName(record.GetGeneration(), ca.NodeName(cluster, node)))
}

func (is *Issuer) order(o ca.Order, record *modelv1.Certificate, request []byte, own string) (ca.Order, error) {
	key, err := ca.ParseCSR(request)
	if err != nil {
		return ca.Order{}, err
	}
	if err := is.isFor(record, key); err != nil {
		return ca.Order{}, fmt.Errorf("certificate of %s: %w", own, err)
	}
	if err := saysKeyOnly(request); err != nil {
		return ca.Order{}, fmt.Errorf("certificate of %s: %w", own, err)
	}
	o.Request, o.Serial = request, new(big.Int).SetBytes(newSerial())
	return o, nil
}

// saysKeyOnly returns an error if a request says anything besides its key: a CA that is
// not ours might take it over, and would then be blamed for it.
func saysKeyOnly(request []byte) error {
	csr, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return err
	}
	if len(csr.Subject.Names)+len(csr.Extensions) > 0 {
		return fmt.Errorf("the certificate request says more than its key, and an external CA signs: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// isFor returns nil if record was prepared for the root and the key.
func (is *Issuer) isFor(record *modelv1.Certificate, key ca.PublicKey) error {
	issuer := ca.RootDigest(is.root.Raw)
	switch {
	case !bytes.Equal(key.DER, record.GetPublicKey()):
		return errors.New("the request's key is not the recorded one")
	case !bytes.Equal(issuer[:], record.GetIssuer()):
		return errors.New("it was prepared for another root")
	}
	return nil
}

// newSerial draws a positive one of 16 bytes.
func newSerial() []byte {
	serial := make([]byte, serialBytes)
	_, _ = rand.Read(serial) // never fails: the runtime ends the process instead
	serial[0] = serial[0]&0x7f | 0x40
	return serial
}

// Accept judges the leaf that an external CA has signed for an Order of the recorded
// certificate of a node, and returns its chain, as Sign does, and the record as it is
// to be: with the leaf's own serial and times. now is the leader's clock. An error says
// in words what the CA did otherwise than it was asked.
func (is *Issuer) Accept(cluster, node id.ID, record *modelv1.Certificate, der []byte, now time.Time) (chain [][]byte, settled *modelv1.Certificate, err error) {
	w := asked{
		organization: cluster.String(), name: node.String(), hosts: nodeHosts(cluster, node, record), least: ca.MinExpiry,
		usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	leaf, err := is.judge(w, record, der, now)
	if err != nil {
		return nil, nil, err
	}
	who, err := is.bundle.Verify([]*x509.Certificate{leaf}, now)
	if err != nil {
		return nil, nil, err
	}
	if who.Cluster != cluster || who.Node != node || who.Role != record.GetRole() || who.Generation != record.GetGeneration() {
		return nil, nil, fmt.Errorf("it certifies %s of cluster %s, generation %d, as %v", who.Node, who.Cluster, who.Generation, who.Role)
	}
	return is.chain(der), settle(record, leaf, now), nil
}

// AcceptUser is Accept for the leaf of a user.
func (is *Issuer) AcceptUser(p ca.UserProfile, record *modelv1.Certificate, der []byte, now time.Time) (chain [][]byte, settled *modelv1.Certificate, err error) {
	own := ca.UserName(p.Cluster, p.User)
	w := asked{
		organization: p.Cluster.String(), name: p.Name, hosts: []string{own, ca.GenerationName(record.GetGeneration(), own)}, least: ca.MinLifetime, own: true,
		usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	leaf, err := is.judge(w, record, der, now)
	if err != nil {
		return nil, nil, err
	}
	who, err := is.bundle.VerifyUser([]*x509.Certificate{leaf}, now)
	if err != nil {
		return nil, nil, err
	}
	if who.Cluster != p.Cluster || who.User != p.User || who.Name != p.Name || who.Generation != record.GetGeneration() {
		return nil, nil, fmt.Errorf("it certifies user %s (%s) of cluster %s, generation %d", who.Name, who.User, who.Cluster, who.Generation)
	}
	return is.chain(der), settle(record, leaf, now), nil
}

// settle is a record as the leaf has it that was signed for it.
func settle(record *modelv1.Certificate, leaf *x509.Certificate, now time.Time) *modelv1.Certificate {
	out := proto.CloneOf(record)
	out.Serial, out.IssuedAt = leaf.SerialNumber.Bytes(), now.UnixNano()
	out.NotBefore, out.NotAfter = leaf.NotBefore.UnixNano(), leaf.NotAfter.UnixNano()
	return out
}

// asked is what a leaf is to say besides its key.
type asked struct {
	organization, name string
	hosts              []string
	usages             []x509.ExtKeyUsage
	// least is the shortest life it may have.
	least time.Duration
	// own says that its holder chose how long it lives, and not the swarm: a CA that
	// gives more is not at fault.
	own bool
}

// judge reads a leaf and returns an error if it says anything else than was asked, or
// more.
func (is *Issuer) judge(w asked, record *modelv1.Certificate, der []byte, now time.Time) (*x509.Certificate, error) {
	if len(der) > maxLeaf {
		return nil, fmt.Errorf("its certificate has %d bytes, at most %d", len(der), maxLeaf)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("its certificate cannot be read: %w", err)
	}
	switch subject := (pkix.Name{CommonName: w.name, Organization: []string{w.organization}}); {
	case leaf.CheckSignatureFrom(is.root) != nil:
		return nil, fmt.Errorf("its certificate is not signed by the root %s (SHA-256 %x) but issued by %q", is.root.Subject, ca.RootDigest(is.root.Raw), leaf.Issuer)
	case leaf.IsCA:
		return nil, errors.New("it made an authority (CA:TRUE) of what is to be none: have its profile say no ca_constraint")
	case !bytes.Equal(leaf.RawSubjectPublicKeyInfo, record.GetPublicKey()):
		return nil, errors.New("its certificate is for another key than the request's")
	case leaf.Subject.String() != subject.String():
		return nil, fmt.Errorf("its certificate is of %q, asked was %q", leaf.Subject, subject)
	case len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs) != 0 || !sameNames(leaf.DNSNames, w.hosts):
		return nil, fmt.Errorf("its certificate has the names %q and %d of other kinds, asked were %q", leaf.DNSNames,
			len(leaf.IPAddresses)+len(leaf.EmailAddresses)+len(leaf.URIs), w.hosts)
	case len(leaf.UnhandledCriticalExtensions) != 0:
		return nil, fmt.Errorf("its certificate has an extension %v that nobody asked for and everybody is to understand", leaf.UnhandledCriticalExtensions[0])
	case leaf.SerialNumber.Sign() <= 0:
		return nil, errors.New("its certificate has no serial number")
	}
	if err := w.usable(leaf); err != nil {
		return nil, err
	}
	return leaf, is.inTime(leaf, w, lifeOf(record), now)
}

func sameNames(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// usable returns an error unless a leaf is for what was asked and nothing else.
func (w asked) usable(leaf *x509.Certificate) error {
	have := slices.Sorted(slices.Values(leaf.ExtKeyUsage))
	if len(leaf.UnknownExtKeyUsage) > 0 || !slices.Equal(have, slices.Sorted(slices.Values(w.usages))) {
		want := `"server auth" and "client auth"`
		if len(w.usages) == 1 {
			want = `"client auth" alone`
		}
		return fmt.Errorf("its certificate is for other uses than asked: have its profile say %s", want)
	}
	const may = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
	if leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || leaf.KeyUsage&^may != 0 {
		return errors.New(`its certificate's key is for other uses than asked: have its profile say "signing", and no other but "key encipherment"`)
	}
	return nil
}

// inTime returns an error unless a leaf counts now and neither for longer than life
// nor for less than it has to.
func (is *Issuer) inTime(leaf *x509.Certificate, w asked, life time.Duration, now time.Time) error {
	text := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch left := leaf.NotAfter.Sub(now); {
	case leaf.NotBefore.Before(is.floor):
		return fmt.Errorf("its certificate counts from %s and the root, or what leads to it, from %s only: ask again when that is longer ago than it backdates by",
			text(leaf.NotBefore), text(is.floor))
	case leaf.NotBefore.After(now):
		return fmt.Errorf("its certificate counts from %s and the clock here says %s: set that clock, or have its profile backdate", text(leaf.NotBefore), text(now))
	case now.Sub(leaf.NotBefore) > maxBackdateOutside:
		return fmt.Errorf("its certificate counts from %s, more than %v ago: have its profile backdate by less", text(leaf.NotBefore), maxBackdateOutside)
	case leaf.NotAfter.After(is.root.NotAfter):
		return fmt.Errorf("its certificate counts until %s and its root until %s only", text(leaf.NotAfter), text(is.root.NotAfter))
	case left > life+roundingOutside && w.own:
		return ca.Unfit(fmt.Sprintf("it gives certificates of %v, and %v was asked: ask for that, or have the expiry of its profile %s be shorter",
			left.Round(time.Minute), life.Round(time.Minute), UserProfile))
	case left > life+roundingOutside:
		return fmt.Errorf("its certificate lives %v and %v was asked: have its profile's expiry be no longer", left.Round(time.Minute), life.Round(time.Minute))
	case left < w.least && left < life-2*roundingOutside:
		return fmt.Errorf("its certificate lives %v only, at least %v is needed", left.Round(time.Second), w.least)
	}
	return nil
}

// CheckOutside is CheckRoot for a root whose key is elsewhere.
func CheckOutside(der []byte, now time.Time) error {
	is, err := Outside([][]byte{der})
	if err != nil {
		return err
	}
	if _, ok := is.root.PublicKey.(*ecdsa.PublicKey); !ok {
		return fmt.Errorf("the key of %s is a %T, want ECDSA", is.root.Subject, is.root.PublicKey)
	}
	return is.canLead(now)
}

// CheckCross returns an error unless cross, DER, says of the root next that from has
// certified it.
func CheckCross(from, next, cross []byte) error {
	var c [3]*x509.Certificate
	for i, der := range [][]byte{from, next, cross} {
		var err error
		if c[i], err = x509.ParseCertificate(der); err != nil {
			return fmt.Errorf("cross certificate: %w", err)
		}
	}
	old, root, x := c[0], c[1], c[2]
	switch {
	case x.CheckSignatureFrom(old) != nil:
		return fmt.Errorf("the cross certificate is not signed by the present root, %s, but issued by %s", old.Subject, x.Issuer)
	case !bytes.Equal(x.RawSubjectPublicKeyInfo, root.RawSubjectPublicKeyInfo) || !bytes.Equal(x.RawSubject, root.RawSubject):
		return fmt.Errorf("the cross certificate is of %s and another key or name than the next root, %s", x.Subject, root.Subject)
	case !x.IsCA:
		return errors.New("the cross certificate makes no authority of the next root (CA:TRUE)")
	case len(x.SubjectKeyId) > 0 && len(root.SubjectKeyId) > 0 && !bytes.Equal(x.SubjectKeyId, root.SubjectKeyId):
		return errors.New("the cross certificate has another subject key identifier than the next root")
	}
	return nil
}

// A Trial is a leaf that an external CA has signed for a key that nobody keeps.
type Trial struct {
	leaf []byte
	key  *ecdsa.PrivateKey
}

// Leads returns an error unless the leaf is verified by who trusts only the root from,
// with the certificates via.
func (t Trial) Leads(from []byte, via [][]byte, now time.Time) error {
	trust, err := ca.ParseBundle([][]byte{from})
	if err != nil {
		return err
	}
	_, err = ca.NewCredential(append([][]byte{t.leaf}, via...), t.key, trust, now)
	return err
}

// Try has sign, which asks an external CA, sign a leaf of each kind for a node and a
// user that there are not, and judges them. life is how long leaves are to live, by
// role.
func (is *Issuer) Try(cluster id.ID, life func(modelv1.Role) time.Duration, now time.Time, sign func(o ca.Order, take func(der []byte) error) error) (Trial, error) {
	key, err := ca.NewKey()
	if err != nil {
		return Trial{}, err
	}
	csr, err := ca.NewCSR(key)
	if err != nil {
		return Trial{}, err
	}
	public, err := ca.ParseCSR(csr)
	if err != nil {
		return Trial{}, err
	}
	out := Trial{key: key}
	for _, role := range []modelv1.Role{modelv1.Role_ROLE_WORKER, modelv1.Role_ROLE_MANAGER} {
		p := ca.Profile{Cluster: cluster, Node: id.New(), Role: role, Generation: 1, Lifetime: life(role)}
		record, err := is.Prepare(p, public, now)
		if err != nil {
			return Trial{}, err
		}
		o, err := is.Order(p.Cluster, p.Node, record, csr)
		if err != nil {
			return Trial{}, err
		}
		if err := sign(o, func(der []byte) error {
			out.leaf = der
			_, _, err := is.Accept(p.Cluster, p.Node, record, der, time.Now())
			return err
		}); err != nil {
			return Trial{}, err
		}
	}
	u := ca.UserProfile{Cluster: cluster, User: id.New(), Name: "trial", Generation: 1, Lifetime: ca.MaxUserLifetime}
	record, err := is.PrepareUser(u, public, now)
	if err != nil {
		return Trial{}, err
	}
	o, err := is.OrderUser(u, record, csr)
	if err != nil {
		return Trial{}, err
	}
	return out, sign(o, func(der []byte) error {
		_, _, err := is.AcceptUser(u, record, der, time.Now())
		return err
	})
}
