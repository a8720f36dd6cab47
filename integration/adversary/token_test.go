package adversary

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

// refusedToken checks that a token is refused at every manager, in words, without its
// secret, and that no node is made of it.
func (s *swarm) refusedToken(t *testing.T, what, token, words, from string) {
	t.Helper()
	before := s.nodes(t)
	for _, m := range s.managers {
		_, err := enroll(t, nobody(from).conn(t, m), token, csrOf(t, newKey(t)))
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "join token refused: ") || !strings.Contains(err.Error(), words) {
			t.Errorf("%s at %s: %v, want refused with %q", what, m.name, err, words)
		}
		if parsed, parseErr := ca.ParseToken(token); parseErr == nil && err != nil && strings.Contains(err.Error(), id.ID(parsed.Secret.Reveal()).String()) {
			t.Errorf("%s at %s: the error holds the secret", what, m.name)
		}
	}
	if now := s.nodes(t); now != before {
		t.Errorf("%s: %d nodes were made", what, now-before)
	}
}

// TestReplayedToken: it was seen on its way, or found in a script, after its use.
func TestReplayedToken(t *testing.T) {
	s := attacked(t)
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	if _, err := enroll(t, nobody("127.0.0.41").conn(t, s.managers[0]), text, csrOf(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	s.refusedToken(t, "a token that was used", text, "used already", "127.0.0.41")
}

// TestRevokedToken, and one that was rotated.
func TestRevokedToken(t *testing.T) {
	s := attacked(t)
	text, made := s.token(t, &controlv1.CreateTokenRequest{})
	ref, err := id.FromBytes(made.GetId())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.managers[1].control().RevokeToken(within(t, soon), &controlv1.RevokeTokenRequest{RequestId: requestID(), Ref: ref.String()}); err != nil {
		t.Fatal(err)
	}
	s.refusedToken(t, "a token that was revoked", text, "revoked", "127.0.0.42")
	standing, err := s.managers[0].control().GetJoinToken(within(t, soon), &controlv1.GetJoinTokenRequest{Role: asManager})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.managers[2].control().RotateJoinToken(within(t, soon), &controlv1.RotateJoinTokenRequest{RequestId: requestID(), Role: asManager}); err != nil {
		t.Fatal(err)
	}
	s.refusedToken(t, "a token that was rotated", standing.GetToken(), "rotated or mistyped", "127.0.0.42")
}

// TestExpiredToken: it was found too late, with uses left, and is tried in every way:
// by many at once, by a host whose clock says that it counts still, by a daemon.
func TestExpiredToken(t *testing.T) {
	s := attacked(t)
	text, made := s.token(t, &controlv1.CreateTokenRequest{Ttl: int64(time.Second), Uses: 2})
	ref, err := id.FromBytes(made.GetId())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range s.managers {
		if err := until("the token's end at "+m.name, func() error { return m.expired(ref.String()) }); err != nil {
			t.Fatal(err)
		}
	}
	ended := time.Unix(0, made.GetExpiresAt())
	before, says := s.nodes(t), "it expired at "+ended.UTC().Format(time.RFC3339)
	s.refusedToken(t, "a token that expired", text, says, "127.0.0.48")

	// At once, and whatever the joiner's clock says: only the managers' counts.
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i, clock := range []time.Time{{}, ended.Add(-time.Millisecond), ended.Add(-time.Second), ended.Add(-time.Hour), time.Unix(1, 0), time.Now()} {
		for _, m := range s.managers {
			cc, req := nobody("127.0.0.49").conn(t, m), &cav1.EnrollRequest{Token: text, Csr: csrOf(t, newKey(t)), Hostname: "late"}
			if i > 0 {
				req.Clock = clock.UnixNano()
			}
			wg.Go(func() {
				<-start
				if _, err := cav1.NewAuthorityClient(cc).Enroll(within(t, soon), req); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), says) {
					t.Errorf("at %s, with the clock at %v: %v, want %q", m.name, clock, err, says)
				}
			})
		}
	}
	close(start)
	wg.Wait()
	late, err := s.host("late")
	if err != nil {
		t.Fatal(err)
	}
	defer late.kill()
	err = late.joinBy(text, s.managers[1].addr, s.managers[2].addr)
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("a daemon joins with it: %v, want %q", err, says)
	}
	if now := s.nodes(t); now != before {
		t.Errorf("%d nodes were made", now-before)
	}

	// Nobody repeats the secret.
	l := loot{}
	l.addToken(t, "the token", text)
	looked := l.search()
	if found := looked.in([]byte(text)); len(found) == 0 {
		t.Fatal("the search does not find what is there")
	}
	for path, data := range s.written(t) {
		if found := looked.in(data); len(found) > 0 {
			t.Errorf("%v is in %s", found, path)
		}
	}
	for _, args := range [][]string{{"audit", "ls", "--format", "json"}, {"swarm", "token", "inspect", ref.String()}} {
		out, err := s.managers[0].ctl(args...)
		if found := looked.in([]byte(out)); err != nil || len(found) > 0 {
			t.Errorf("ctl %s shows %v: %v", strings.Join(args, " "), found, err)
		}
	}
}

// expired returns an error unless the host says that a token is over because its time
// is.
func (h *host) expired(ref string) error {
	out, err := h.ctl("swarm", "token", "ls", "--filter", "id="+ref, "--format", "{{.Status}}")
	if err == nil && strings.TrimSpace(out) != "expired" {
		err = fmt.Errorf("it says that it is %q", out)
	}
	return err
}

// TestTheTrailTellsOfAnExpiredToken, and not its secret: of a swarm of its own, since the
// other attacks have used up what is told of strangers one by one.
func TestTheTrailTellsOfAnExpiredToken(t *testing.T) {
	s := attacked(t)
	var hosts [2]*host
	for i, name := range []string{"alone", "later"} {
		h, err := s.host(name)
		if err != nil {
			t.Fatal(err)
		}
		defer h.kill()
		hosts[i] = h
	}
	alone, later := hosts[0], hosts[1]
	if _, err := alone.ctl("swarm", "init", "--no-standing-tokens", "--advertise-addr", alone.addr, "--listen-addr", alone.addr); err != nil {
		t.Fatal(err)
	}
	text, err := alone.ctl("swarm", "token", "create", "-q", "--role", "manager", "--ttl", "1s")
	if err != nil {
		t.Fatal(err)
	}
	text = strings.TrimSpace(text)
	ref, err := alone.ctl("swarm", "token", "ls", "-q")
	if err != nil {
		t.Fatal(err)
	}
	if err := until("the token's end", func() error { return alone.expired(strings.TrimSpace(ref)) }); err != nil {
		t.Fatal(err)
	}
	if err := later.joinBy(text, alone.addr); err == nil || !strings.Contains(err.Error(), "it expired at ") {
		t.Errorf("a daemon joins with it: %v, want refused", err)
	}
	trail := ""
	if err := until("a record of it", func() (err error) {
		trail, err = alone.ctl("audit", "ls", "--refused", "--did", "Enroll", "--no-trunc", "--format", "{{.Who}} {{.From}} {{.Reason}}")
		if err == nil && !strings.Contains(trail, "join token refused: it expired at ") {
			err = errors.New(trail)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if !strings.HasPrefix(trail, "anyone 127.0.0.1 ") {
		t.Errorf("the trail says %q, want who it was and from where", trail)
	}
	l := loot{}
	l.addToken(t, "the token", text)
	all, err := alone.ctl("audit", "ls", "--format", "json")
	if found := l.search().in([]byte(all)); err != nil || len(found) > 0 {
		t.Errorf("the trail shows %v: %v", found, err)
	}
}

// TestTokenOfAnotherCluster, and the pieces of two put together.
func TestTokenOfAnotherCluster(t *testing.T) {
	s := attacked(t)
	other, _, err := issue.NewRoot(id.New(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	s.refusedToken(t, "a token of another cluster", ca.Token{Digest: ca.RootDigest(other), Secret: ca.NewTokenSecret()}.Reveal(), "another cluster", "127.0.0.43")
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	good, err := ca.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	s.refusedToken(t, "its digest and another secret", ca.Token{Digest: good.Digest, Secret: ca.NewTokenSecret()}.Reveal(), "not one of the cluster's", "127.0.0.43")
	s.refusedToken(t, "another digest and its secret", ca.Token{Digest: ca.RootDigest(other), Secret: good.Secret}.Reveal(), "another cluster", "127.0.0.43")
}

// TestRacedToken: everybody has it, and asks at once, at every manager.
func TestRacedToken(t *testing.T) {
	s := attacked(t)
	before := s.nodes(t)
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	var in, late atomic.Int64
	var wg sync.WaitGroup
	start := make(chan struct{})
	const racers = 100
	for i := range racers {
		// From several places: of one address so many at once would be turned away.
		cc, csr := nobody(fmt.Sprintf("127.0.%d.44", 44+i%10)).conn(t, s.managers[i%len(s.managers)]), csrOf(t, newKey(t))
		wg.Go(func() {
			<-start
			_, err := enroll(t, cc, text, csr)
			switch {
			case err == nil:
				in.Add(1)
			case errdefs.IsPermissionDenied(err) && strings.Contains(err.Error(), "used already"):
				late.Add(1)
			default:
				t.Errorf("a racer ends with %v", err)
			}
		})
	}
	close(start)
	wg.Wait()
	if now := s.nodes(t); in.Load() != 1 || late.Load() != racers-1 || now != before+1 {
		t.Errorf("%d got in, %d were late, %d nodes were made; want 1, %d and 1", in.Load(), late.Load(), now-before, racers-1)
	}
}

// TestBruteForcedToken: the digest is no secret. Guesses at the rest are slowed by
// address, cost no entry of the log, and slow nobody else.
func TestBruteForcedToken(t *testing.T) {
	s := attacked(t)
	leader, _ := s.leader(t)
	before := s.nodes(t)
	token := ca.Token{Digest: ca.RootDigest(s.root.der)}
	ccs := nobody("127.0.0.45").conn(t, leader)
	csr, slowed := csrOf(t, newKey(t)), 0
	for range 200 {
		token.Secret = ca.NewTokenSecret()
		_, err := enroll(t, ccs, token.Reveal(), csr)
		switch {
		case errdefs.IsResourceExhausted(err) && strings.Contains(err.Error(), "too many requests"):
			slowed++
		case !errdefs.IsPermissionDenied(err):
			t.Fatalf("a guess ends with %v", err)
		}
	}
	if slowed < 100 {
		t.Errorf("%d of 200 guesses were slowed down", slowed)
	}
	if now := s.nodes(t); now != before {
		t.Errorf("%d nodes were made", now-before)
	}
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	if _, err := enroll(t, nobody("127.0.0.46").conn(t, leader), text, csrOf(t, newKey(t))); err != nil {
		t.Errorf("meanwhile somebody else joins: %v", err)
	}
}
