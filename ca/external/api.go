package external

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/skep-project/skep/ca"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

const (
	// maxAnswer bounds what is read of an answer, in bytes.
	maxAnswer = 256 << 10
	// maxWords bounds what is repeated of what a server says, in bytes.
	maxWords = 200
	// apiPath is where cfssl serves its API.
	apiPath = "/api/v1/cfssl/"
)

// A request is what cfssl's "sign" takes. Without hosts and a subject, and with all
// that is in them, nothing of the certificate request's own names would count.
type request struct {
	Request string   `json:"certificate_request"`
	Hosts   []string `json:"hosts"`
	Subject subject  `json:"subject"`
	Profile string   `json:"profile"`
	Label   string   `json:"label,omitempty"`
	Serial  *big.Int `json:"serial,omitempty"`
}

type subject struct {
	CN    string `json:"CN"`
	Names []name `json:"names"`
}

type name struct {
	O string `json:"O"`
}

// authenticated is a request as "authsign" takes it: Token is its HMAC.
type authenticated struct {
	Timestamp int64  `json:"timestamp"`
	Token     []byte `json:"token"`
	Request   []byte `json:"request"`
}

type answer struct {
	Success bool `json:"success"`
	Result  struct {
		Certificate string `json:"certificate"`
	} `json:"result"`
	Errors []struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"errors"`
}

// sign asks one server and returns what it signed, DER.
func (c *Client) sign(ctx context.Context, at *modelv1.ExternalCA, root []byte, o ca.Order) ([]byte, error) {
	body, err := json.Marshal(request{
		Request: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: o.Request})),
		Hosts:   o.Hosts, Subject: subject{CN: o.Name, Names: []name{{O: o.Organization}}},
		Profile: o.Profile, Label: at.GetLabel(), Serial: o.Serial,
	})
	if err != nil {
		return nil, err
	}
	method := "sign"
	if key := at.GetAuthKey(); len(key) > 0 {
		method = "authsign"
		mac := hmac.New(sha256.New, key)
		mac.Write(body)
		body, err = json.Marshal(authenticated{Timestamp: time.Now().Unix(), Token: mac.Sum(nil), Request: body})
		if err != nil {
			return nil, err
		}
	}
	got, err := c.post(ctx, at, root, method, body)
	if err != nil {
		return nil, err
	}
	return certificateIn(got)
}

// certificateIn is the one certificate of an answer, DER.
func certificateIn(got answer) ([]byte, error) {
	block, rest := pem.Decode([]byte(got.Result.Certificate))
	if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("its answer is not one certificate")
	}
	return block.Bytes, nil
}

// probe asks one server who it is, and returns an error unless it is the root.
func (c *Client) probe(ctx context.Context, at *modelv1.ExternalCA, root []byte) error {
	body, err := json.Marshal(map[string]string{"label": at.GetLabel()})
	if err != nil {
		return err
	}
	got, err := c.post(ctx, at, root, "info", body)
	if err != nil {
		return err
	}
	der, err := certificateIn(got)
	if err != nil {
		return err
	}
	if !bytes.Equal(der, root) {
		return fmt.Errorf("it signs with another root than the swarm's: SHA-256 %x", ca.RootDigest(der))
	}
	return nil
}

// post makes one call over a connection of its own: calls are few, and none is left
// behind for a leader that is none any more.
func (c *Client) post(ctx context.Context, at *modelv1.ExternalCA, root []byte, method string, body []byte) (out answer, err error) {
	trust, err := c.tls(at, root)
	if err != nil {
		return out, err
	}
	to := strings.TrimSuffix(at.GetUrl(), "/") + apiPath + method
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	h := http.Client{
		Transport: &http.Transport{
			TLSClientConfig: trust, DisableKeepAlives: true, DisableCompression: true,
			DialContext:            func(ctx context.Context, _, address string) (net.Conn, error) { return c.cfg.Dial(ctx, address) },
			MaxResponseHeaderBytes: 64 << 10,
		},
		// Elsewhere is where nobody said that the CA is.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := h.Do(req)
	if err != nil {
		return out, unreached{reason(ctx, err)}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return out, unreached{reason(ctx, err)}
	case len(text) > maxAnswer:
		return out, fmt.Errorf("its answer has more than %d bytes", maxAnswer)
	}
	return readAnswer(resp.StatusCode, text)
}

// readAnswer reads what a server said with an HTTP status.
func readAnswer(code int, text []byte) (out answer, err error) {
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("its answer (HTTP %d) is not cfssl's: %q", code, words(string(text)))
	}
	if !out.Success {
		return out, refused(code, out)
	}
	return out, nil
}

// unreached is the end of a call that had no answer.
type unreached struct{ error }

func (u unreached) Unwrap() error { return u.error }

// reason is a failed call without the address, which is told beside it.
func reason(ctx context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() != nil {
		return errors.New("no answer in time")
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}

// refused is what a server says itself.
func refused(code int, a answer) error {
	if len(a.Errors) == 0 {
		return fmt.Errorf("it refuses (HTTP %d) and does not say why", code)
	}
	return fmt.Errorf("it refuses: %s (cfssl %d)", words(a.Errors[0].Message), a.Errors[0].Code)
}

// words is what a server says, as it may be shown: one line, not long.
func words(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if s = strings.Join(strings.Fields(s), " "); len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "…"
	}
	return s
}

// tls is whom a server's certificate is to come from, and what is shown to it if it
// asks.
func (c *Client) tls(at *modelv1.ExternalCA, root []byte) (*tls.Config, error) {
	ders := at.GetTrust()
	if len(ders) == 0 {
		ders = [][]byte{root}
	}
	pool := x509.NewCertPool()
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("what its TLS certificate is verified by: %w", err)
		}
		pool.AddCert(cert)
	}
	return &tls.Config{
		RootCAs: pool, MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c.cfg.Certificate != nil {
				if own := c.cfg.Certificate(); own != nil {
					return own, nil
				}
			}
			return &tls.Certificate{}, nil
		},
	}, nil
}
