package adversary

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
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
	for i := range 30 {
		cc, csr := nobody("127.0.0.44").conn(t, s.managers[i%len(s.managers)]), csrOf(t, newKey(t))
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
	if now := s.nodes(t); in.Load() != 1 || late.Load() != 29 || now != before+1 {
		t.Errorf("%d got in, %d were late, %d nodes were made; want 1, 29 and 1", in.Load(), late.Load(), now-before)
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
