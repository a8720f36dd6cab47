package issue

import (
	"crypto/x509"
	"fmt"
	"time"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// PrepareUser is Prepare for the leaf of a user.
func (is *Issuer) PrepareUser(p ca.UserProfile, key ca.PublicKey, now time.Time) (*modelv1.Certificate, error) {
	if err := p.Check(); err != nil {
		return nil, fmt.Errorf("prepare certificate: %w", err)
	}
	return is.record(p.Generation, p.Lifetime, key, now)
}

// SignUser is Sign for the leaf of a user. Of p, the generation and the lifetime
// are the record's to say.
func (is *Issuer) SignUser(p ca.UserProfile, record *modelv1.Certificate, request []byte) ([][]byte, error) {
	p.Generation, p.Lifetime = record.GetGeneration(), lifeOf(record)
	hosts := []string{ca.UserName(p.Cluster, p.User)}
	der, err := is.leaf(record, request, leaf{cluster: p.Cluster, name: p.Name, hosts: hosts, profile: userProfile})
	if err == nil {
		err = is.lintUser(der, p, record, hosts)
	}
	if err != nil {
		return nil, fmt.Errorf("sign certificate of user %s: %w", p.Name, err)
	}
	return is.chain(der), nil
}

// lintUser reads a user's leaf back and compares it with what was meant.
func (is *Issuer) lintUser(der []byte, p ca.UserProfile, record *modelv1.Certificate, hosts []string) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	who, err := is.bundle.VerifyUser([]*x509.Certificate{leaf}, time.Unix(0, record.GetIssuedAt()))
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	want := ca.UserIdentity{Cluster: p.Cluster, User: p.User, Name: p.Name, Generation: p.Generation,
		KeySHA256: ca.Digest(record.GetKeySha256()),
		NotBefore: time.Unix(0, record.GetNotBefore()).UTC(), NotAfter: time.Unix(0, record.GetNotAfter()).UTC()}
	if who != want {
		return fmt.Errorf("read back: the leaf says %+v, want %+v", who, want)
	}
	return saysNoMore(leaf, p.Cluster, p.Name, hosts)
}
