// Package cfssltest is a cfssl server within a test: cfssl's own handlers over its own
// signer, with the configuration that docs/guides/external-ca.md gives operators, and
// TLS in front. It works in virtual time; cfssl's own program is what integration/script
// runs.
//
// It lives below ca/issue because only that room knows cfssl.
package cfssltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cloudflare/cfssl/api/info"
	"github.com/cloudflare/cfssl/api/signhandler"
	"github.com/cloudflare/cfssl/config"
	"github.com/cloudflare/cfssl/signer/local"

	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/sealed"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Config is the configuration of the guide. AuthKey stands in it for the file of the key.
//
//go:embed config.json
var Config string

// KeyInConfig is what stands in Config where the key of authenticated signing is.
const KeyInConfig = "0123456789ABCDEF0123456789ABCDEF"

// AuthKey is that key.
func AuthKey() []byte {
	key, err := hex.DecodeString(KeyInConfig)
	if err != nil {
		panic(err) // it is a constant
	}
	return key
}

// A Root is a root outside of any swarm, and its key.
type Root struct {
	DER []byte
	Key *ecdsa.PrivateKey
}

// NewRoot makes one that counts since yesterday.
func NewRoot(t testing.TB, name string) Root {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return Root{der, key}
}

// Secret is the root's key in PKCS#8.
func (r Root) Secret(t testing.TB) sealed.Secret {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(r.Key)
	if err != nil {
		t.Fatal(err)
	}
	return sealed.NewSecret(der)
}

// Cross is another root as certified by r, DER.
func (r Root) Cross(t testing.TB, next []byte) []byte {
	t.Helper()
	der, err := issue.Cross(r.DER, r.Secret(t), next)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// Young is r as certified by another root a moment ago, DER.
func (r Root) Young(t testing.TB, by Root) []byte {
	t.Helper()
	root, from := parsed(t, r.DER), parsed(t, by.DER)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(3), RawSubject: root.RawSubject, SubjectKeyId: root.SubjectKeyId, NotBefore: time.Now().Add(-time.Second), NotAfter: root.NotAfter,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: root.KeyUsage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, from, root.PublicKey, by.Key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parsed(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Handler is cfssl's API over the root. configure changes the configuration before it
// is read; nil leaves it.
func (r Root) Handler(t testing.TB, configure func(string) string) http.Handler {
	t.Helper()
	text := Config
	if configure != nil {
		text = configure(text)
	}
	cfg, err := config.LoadConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	s, err := local.NewSigner(r.Key, parsed(t, r.DER), x509.ECDSAWithSHA256, cfg.Signing)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	about, err := info.NewHandler(s)
	if err != nil {
		t.Fatal(err)
	}
	mux.Handle("/api/v1/cfssl/info", about)
	if h, err := signhandler.NewAuthHandlerFromSigner(s); err == nil {
		mux.Handle("/api/v1/cfssl/authsign", h)
	}
	if h, err := signhandler.NewHandlerFromSigner(s); err == nil { // without authentication: cfssl serves it if a profile allows that
		mux.Handle("/api/v1/cfssl/sign", h)
	}
	return mux
}

// WithoutAuth is Config for a server that does not ask who calls.
func WithoutAuth(text string) string {
	return strings.ReplaceAll(text, `"auth_key": "skep"`, `"ocsp_no_check": false`)
}

// TLS is what a server of the root shows at host.
func (r Root) TLS(t testing.TB, host string) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root := parsed(t, r.DER)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(10 * 365 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root, &key.PublicKey, r.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// A Server is a running one.
type Server struct {
	// At is where it is and how it is called.
	At *modelv1.ExternalCA

	http *http.Server
	done chan struct{}
}

// Serve has h answer at l, as the root's server at that address, until the test ends or
// Stop is called.
func (r Root) Serve(t testing.TB, l net.Listener, h http.Handler) *Server {
	t.Helper()
	return r.ServeTLS(t, l, h.ServeHTTP, func(*tls.Config) {})
}

// ServeTLS is Serve with what TLS shows and asks changed.
func (r Root) ServeTLS(t testing.TB, l net.Listener, h http.HandlerFunc, change func(*tls.Config)) *Server {
	t.Helper()
	host, _, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		At:   &modelv1.ExternalCA{Url: fmt.Sprintf("https://%s", l.Addr()), AuthKey: AuthKey()},
		http: &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute},
		done: make(chan struct{}),
	}
	secure := r.TLS(t, host)
	change(secure)
	go func() {
		defer close(s.done)
		_ = s.http.Serve(tls.NewListener(l, secure))
	}()
	t.Cleanup(s.Stop)
	return s
}

// Stop ends it at once.
func (s *Server) Stop() {
	_ = s.http.Close()
	<-s.done
}
