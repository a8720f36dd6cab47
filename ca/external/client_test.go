package external_test

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/external"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/ca/issue/cfssltest"
	"github.com/skep-project/skep/internal/id"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// desk is a swarm that has a root outside.
type desk struct {
	*testing.T
	net  cfssltest.Net
	root cfssltest.Root
	is   *issue.Issuer
	c    *external.Client
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{T: t, root: cfssltest.NewRoot(t, "outside")}
	var err error
	if d.is, err = issue.Outside([][]byte{d.root.DER}); err != nil {
		t.Fatal(err)
	}
	d.c = external.New(external.Config{Dial: d.net.Dial})
	return d
}

// serve has the real cfssl answer at a host.
func (d *desk) serve(host string) *cfssltest.Server {
	return d.root.Serve(d.T, d.net.Listen(host+":8888"), d.root.Handler(d.T, nil))
}

// lie has a handler of the test answer there.
func (d *desk) lie(host string, h http.HandlerFunc) *modelv1.ExternalCA {
	return d.root.Serve(d.T, d.net.Listen(host+":8888"), h).At
}

// answers is a handler that gives one certificate, DER, whatever is asked.
func answers(der []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		_ = json.NewEncoder(w).Encode(map[string]any{"success": true, "result": map[string]string{"certificate": string(text)}})
	}
}

// try has CAs sign for a node and for a user that there are not.
func (d *desk) try(cas ...*modelv1.ExternalCA) error {
	_, err := d.is.Try(id.New(), func(r modelv1.Role) time.Duration { return ca.Lifetime(r, nil) }, time.Now(), func(o ca.Order, take func([]byte) error) error {
		return d.c.Sign(d.Context(), cas, d.root.DER, o, take)
	})
	return err
}

// trial is try as it is made before something is written.
func (d *desk) trial(at *modelv1.ExternalCA) error {
	_, err := d.is.Try(id.New(), func(r modelv1.Role) time.Duration { return ca.Lifetime(r, nil) }, time.Now(), func(o ca.Order, take func([]byte) error) error {
		return d.c.Trial(d.Context(), at, d.root.DER, o, take)
	})
	return err
}

// TestATrialThatFailsSaysNothingOfTheCA: it may have been asked for what it does not give.
func TestATrialThatFailsSaysNothingOfTheCA(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		at := d.root.Serve(t, d.net.Listen("one:8888"), d.root.Handler(t, func(s string) string { return strings.ReplaceAll(s, "168h", "9999h") })).At
		for range 2 {
			if err := d.trial(at); err == nil || !strings.Contains(err.Error(), "https://one:8888: ") || !strings.Contains(err.Error(), "168h0m0s was asked") {
				t.Errorf("it ended with %v", err)
			}
		}
		if d.c.Health(at.GetUrl()).Failing() {
			t.Errorf("it is %+v", d.c.Health(at.GetUrl()))
		}
	})
}

func TestTheRealCfsslSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		s := d.serve("one")
		if err := d.try(s.At); err != nil {
			t.Fatal(err)
		}
		if h := d.c.Health(s.At.GetUrl()); h.Failing() || !h.Answered.Equal(time.Now()) {
			t.Errorf("its health is %+v", h)
		}
		if m := d.c.Meters(); m.Signed != 3 || m.Failed != 0 {
			t.Errorf("counted %+v", m)
		}
		open := d.root.Serve(t, d.net.Listen("open:8888"), d.root.Handler(t, cfssltest.WithoutAuth))
		open.At.AuthKey = nil
		if err := d.try(open.At); err != nil {
			t.Errorf("without authentication: %v", err)
		}
	})
}

func TestWhoeverHasNotTheKeyIsRefusedInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		s := d.serve("one")
		key := []byte("not the key of the server, but a secret")
		s.At.AuthKey = key
		err := d.try(s.At)
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "https://one:8888: it refuses: ") || !strings.Contains(err.Error(), "invalid token") {
			t.Errorf("with another key: %v", err)
		}
		if strings.Contains(err.Error(), hex.EncodeToString(key)) || strings.Contains(err.Error(), string(key)) {
			t.Errorf("the key is told: %v", err)
		}
		time.Sleep(time.Minute)
		s.At.AuthKey = nil
		if err := d.try(s.At); err == nil || !strings.Contains(err.Error(), "it") {
			t.Errorf("without a key: %v", err)
		}
	})
}

func TestTheNextIsAskedAndAllDeadIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		one, two := d.serve("one"), d.serve("two")
		cas := []*modelv1.ExternalCA{one.At, two.At}
		one.Stop()
		if err := d.try(cas...); err != nil {
			t.Fatalf("the second: %v", err)
		}
		if h := d.c.Health(one.At.GetUrl()); !h.Failing() || !strings.Contains(h.Err, "refused") {
			t.Errorf("the first is %+v", h)
		}
		select {
		case <-d.c.Changed():
		default:
			t.Error("nobody was told")
		}
		two.Stop()
		time.Sleep(time.Minute)
		err := d.try(cas...)
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "https://one:8888: ") || !strings.Contains(err.Error(), "https://two:8888: ") {
			t.Errorf("all dead: %v", err)
		}
		begin := time.Now()
		if err := d.try(cas...); err == nil || !strings.Contains(err.Error(), "it is asked again in ") || time.Since(begin) > 0 {
			t.Errorf("asked at once again: %v, after %v", err, time.Since(begin))
		}
		d.serve("two")
		time.Sleep(15 * time.Second)
		if err := d.try(cas...); err != nil {
			t.Errorf("back again: %v", err)
		}
		if d.c.Health(two.At.GetUrl()).Failing() {
			t.Error("it is still called failing")
		}
	})
}

func TestASlowOneHoldsNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		slow := d.lie("slow", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		good := d.serve("two").At
		begin := time.Now()
		if err := d.try(slow, good); err != nil || time.Since(begin) != 4*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if h := d.c.Health(slow.GetUrl()); h.Err != "no answer in time" {
			t.Errorf("it is %+v", h)
		}
		// A caller who gives up says nothing of the CA.
		time.Sleep(time.Minute)
		other := d.lie("other", func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		if err := d.c.Sign(ctx, []*modelv1.ExternalCA{other}, d.root.DER, ca.Order{}, nil); err == nil || d.c.Health(other.GetUrl()).Failing() {
			t.Errorf("%v, and it is %+v", err, d.c.Health(other.GetUrl()))
		}
	})
}

// TestALieIsNotPassedOn: whatever a server answers, it is an error that names it, and
// no certificate.
func TestALieIsNotPassedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		stranger := cfssltest.NewRoot(t, "outside")
		for name, tt := range map[string]struct {
			h    http.HandlerFunc
			says string
		}{
			"a root":    {answers(d.root.DER), "CA:TRUE"},
			"another's": {answers(stranger.DER), "not signed by the root"},
			"no PEM":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"success":true,"result":{}}`) }, "not one certificate"},
			"no JSON":   {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>\x1b[2Jhello") }, "is not cfssl's"},
			"a bare no": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"success":false}`) }, "does not say why"},
			"huge":      {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, "more than 262144 bytes"},
			"go elsewhere": {func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "https://two:8888/", http.StatusTemporaryRedirect)
			}, "is not cfssl's"},
		} {
			at := d.lie(strings.ReplaceAll(name, " ", "-"), func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				tt.h(w, r)
			})
			err := d.try(at)
			if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), tt.says) || !strings.Contains(err.Error(), at.GetUrl()) || strings.Contains(err.Error(), "\x1b") {
				t.Errorf("%s: %v, want %q", name, err, tt.says)
			}
			if !d.c.Health(at.GetUrl()).Failing() {
				t.Errorf("%s: it is called good", name)
			}
		}
	})
}

// TestAServerIsVerified by what the operator gave, and by nothing else.
func TestAServerIsVerified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		web := cfssltest.NewRoot(t, "web")
		s := web.Serve(t, d.net.Listen("one:8888"), d.root.Handler(t, nil))
		if err := d.try(s.At); err == nil || !strings.Contains(err.Error(), "certificate signed by unknown authority") {
			t.Errorf("under the swarm's root: %v", err)
		}
		time.Sleep(time.Minute)
		s.At.Trust = [][]byte{web.DER}
		if err := d.try(s.At); err != nil {
			t.Errorf("under its own: %v", err)
		}
	})
}

func TestAProbeFindsAnotherRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		good := d.serve("one").At
		d.c.Probe(t.Context(), good, d.root.DER)
		if h := d.c.Health(good.GetUrl()); h.Failing() || h.Answered.IsZero() {
			t.Errorf("a good one is %+v", h)
		}
		other := cfssltest.NewRoot(t, "other")
		bad := d.root.Serve(t, d.net.Listen("two:8888"), other.Handler(t, nil)).At
		d.c.Probe(t.Context(), bad, d.root.DER)
		if h := d.c.Health(bad.GetUrl()); !strings.Contains(h.Err, "another root") {
			t.Errorf("one with another root is %+v", h)
		}
		d.c.Forget([]*modelv1.ExternalCA{good})
		if d.c.Health(bad.GetUrl()) != (external.Health{}) || d.c.Health(good.GetUrl()) == (external.Health{}) {
			t.Error("the wrong one was forgotten")
		}
	})
}

// TestOneThatSignsAstrayIsFailingUntilItSigns: that it is there is no news.
func TestOneThatSignsAstrayIsFailingUntilItSigns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		long := func(s string) string { return strings.ReplaceAll(s, "2160h", "9999h") }
		good, bad := d.root.Handler(t, nil), d.root.Handler(t, long)
		mended := false
		at := d.root.Serve(t, d.net.Listen("one:8888"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if mended {
				good.ServeHTTP(w, r)
				return
			}
			bad.ServeHTTP(w, r)
		})).At
		if d.try(at) == nil {
			t.Fatal("it was taken")
		}
		time.Sleep(time.Minute)
		d.c.Probe(t.Context(), at, d.root.DER)
		if h := d.c.Health(at.GetUrl()); !strings.Contains(h.Err, "2160h0m0s was asked") {
			t.Errorf("when it is there it is %+v", h)
		}
		if err := d.trial(at); err == nil {
			t.Error("a trial of it went well")
		}
		mended = true
		if err := d.trial(at); err != nil || d.c.Health(at.GetUrl()).Failing() {
			t.Errorf("mended and tried: %v, and it is %+v", err, d.c.Health(at.GetUrl()))
		}
		if err := d.try(at); err != nil || d.c.Health(at.GetUrl()).Failing() {
			t.Errorf("mended: %v, and it is %+v", err, d.c.Health(at.GetUrl()))
		}
	})
}

// TestAManagerShowsItsCertificateIfAsked: cfssl's -mutual-tls-ca.
func TestAManagerShowsItsCertificateIfAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		own := d.root.TLS(t, "manager")
		shown := 0
		d.c = external.New(external.Config{Dial: d.net.Dial, Certificate: func() *tls.Certificate { return &own.Certificates[0] }})
		at := d.root.ServeTLS(t, d.net.Listen("one:8888"), func(w http.ResponseWriter, r *http.Request) {
			shown = len(r.TLS.PeerCertificates)
			d.root.Handler(t, nil).ServeHTTP(w, r)
		}, func(c *tls.Config) { c.ClientAuth = tls.RequestClientCert }).At
		if err := d.try(at); err != nil || shown != 1 {
			t.Errorf("%v, %d certificates were shown", err, shown)
		}
	})
}

func TestAnOrderThatDoesNotFitIsNotTheCAsFault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t)
		at := d.lie("one", answers(d.root.DER))
		err := d.c.Sign(t.Context(), []*modelv1.ExternalCA{at}, d.root.DER, ca.Order{}, func([]byte) error {
			return fmt.Errorf("as it is: %w", ca.Unfit("too short"))
		})
		if !errdefs.IsFailedPrecondition(err) || errors.Is(err, errdefs.ErrUnavailable) || d.c.Health(at.GetUrl()).Failing() {
			t.Errorf("%v, and it is %+v", err, d.c.Health(at.GetUrl()))
		}
	})
}

// TestTheGuidesConfigurationIsTheOneThatIsTested: operators copy it.
func TestTheGuidesConfigurationIsTheOneThatIsTested(t *testing.T) {
	t.Parallel()
	guide, err := os.ReadFile("../../docs/guides/external-ca.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(guide), strings.ReplaceAll(cfssltest.Config, cfssltest.KeyInConfig, "file:skep.key")) {
		t.Error("the configuration in docs/guides/external-ca.md is not the one that tests use")
	}
}
