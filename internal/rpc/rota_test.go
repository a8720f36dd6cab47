package rpc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skep-project/skep/ca"
)

func TestTurnsAreTakenInOrderAndByWhoHasBegunFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRota(1)
		if !r.enter(false, 0) {
			t.Fatal("nobody is there, and there is no turn")
		}
		var order []string
		for _, who := range []string{"first one", "first two", "begun one", "begun two"} {
			go func() {
				if !r.enter(strings.HasPrefix(who, "begun"), time.Minute) {
					t.Errorf("%s has no turn", who)
				}
				order = append(order, who)
			}()
			synctest.Wait() // it stands in its line
		}
		if r.enter(false, time.Second) || r.enter(true, time.Second) {
			t.Error("two have a turn")
		}
		for range 4 {
			r.leave()
			synctest.Wait()
		}
		if want := []string{"begun one", "begun two", "first one", "first two"}; !slices.Equal(order, want) {
			t.Errorf("the order was %q, want %q", order, want)
		}
		r.leave()
		if r.free != 1 || r.first.Len()+r.begun.Len() != 0 {
			t.Errorf("in the end there are %d turns, and %d wait", r.free, r.first.Len()+r.begun.Len())
		}
	})
}

func TestHandshakesLeaveAProcessorToOthers(t *testing.T) {
	t.Parallel()
	for processors, want := range map[int]int{1: 1, 2: 1, 3: 2, 64: 63} {
		if got := turnsOf(processors); got != want {
			t.Errorf("on %d processors there are %d turns, want %d", processors, got, want)
		}
	}
}

// TestASilentPeerKeepsNobodyFromATurn, neither before its word nor behind ours.
func TestASilentPeerKeepsNobodyFromATurn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRota(1)
		near, far := net.Pipe()
		c := &turntaker{Conn: near, rota: r, until: time.Now().Add(handshakeTime)}
		read := make(chan error)
		go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
		synctest.Wait()
		if !r.enter(false, 0) {
			t.Error("a peer that says nothing has the turn")
		}
		if _, err := far.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case err := <-read:
			t.Errorf("it is heard while another one has the turn: %v", err)
		default:
		}
		r.leave()
		if err := <-read; err != nil || !c.in {
			t.Errorf("its turn comes with %v", err)
		}
		written := make(chan error)
		go func() { _, err := c.Write([]byte{1}); written <- err }()
		synctest.Wait()
		if !r.enter(false, 0) {
			t.Error("a peer that does not read has the turn")
		}
		r.leave()
		_ = far.Close()
		if err := <-written; err == nil {
			t.Error("it is written to a peer that has gone")
		}
	})
}

// TestWhoAnswersByteByByteDoesNotGoFirstForEver.
func TestWhoAnswersByteByByteDoesNotGoFirstForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRota(1)
		near, far := net.Pipe()
		c := &turntaker{Conn: near, rota: r, until: time.Now().Add(handshakeTime), begun: true}
		go func() {
			for range hearsFirst + 1 {
				_, _ = far.Write([]byte{1})
			}
		}()
		for range hearsFirst {
			if _, err := c.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		c.out()
		r.enter(false, 0)
		var order []string
		go func() { r.enter(false, time.Minute); order = append(order, "another one") }()
		synctest.Wait()
		go func() { _, _ = c.Read(make([]byte, 1)); order = append(order, "its last byte") }()
		synctest.Wait()
		for range 2 {
			r.leave()
			synctest.Wait()
		}
		if want := []string{"another one", "its last byte"}; !slices.Equal(order, want) {
			t.Errorf("the order was %q, want %q", order, want)
		}
	})
}

// TestWhoComesTooLateIsTurnedAway: the handshake's time goes on in the line.
func TestWhoComesTooLateIsTurnedAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRota(1)
		r.enter(false, 0)
		near, far := net.Pipe()
		go func() { _, _ = far.Write([]byte{1}) }() // it is read
		began := time.Now()
		c := &turntaker{Conn: near, rota: r, until: began.Add(handshakeTime)}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, errLate) || time.Since(began) != handshakeTime {
			t.Errorf("after %v: %v, want %v", time.Since(began), err, errLate)
		}
		c.end()
		if r.leave(); r.free != 1 {
			t.Errorf("there are %d turns", r.free)
		}
	})
}

// TestAPeerThatHasGoneCostsNoArithmetic: it said its word, was tired of waiting and
// hung up.
func TestAPeerThatHasGoneCostsNoArithmetic(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	r := newRota(1)
	r.enter(false, 0)
	if gone(near) {
		t.Error("a peer that is there has gone")
	}
	if _, err := far.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	c := &turntaker{Conn: near, rota: r, until: time.Now().Add(handshakeTime)}
	read := make(chan error)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	_ = far.Close()
	for end := time.Now().Add(handshakeTime); !gone(near) && time.Now().Before(end); {
		runtime.Gosched()
	}
	r.leave()
	if err := <-read; !errors.Is(err, errGone) {
		t.Errorf("its turn comes with %v, want %v", err, errGone)
	}
	c.end()
	if r.free != 1 {
		t.Errorf("there are %d turns", r.free)
	}
}

// newShakers makes configurations of TLS for one who answers and many who ask, with
// certificates on both sides as they are in a swarm.
func newShakers() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"skep"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	own := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	server = &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: own, ClientAuth: tls.RequireAnyClientCert, SessionTicketsDisabled: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			peer := state.PeerCertificates[0] // it signs itself
			return peer.CheckSignature(peer.SignatureAlgorithm, peer.RawTBSCertificate, peer.Signature)
		},
	}
	client = &tls.Config{MinVersion: tls.VersionTLS13, Certificates: own, ServerName: "skep"}
	client.RootCAs, err = trusting(der)
	return server, client, err
}

func trusting(der []byte) (*x509.CertPool, error) {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return roots, nil
}

func shakers(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	server, client, err := newShakers()
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}

// TestHandshakesAreDoneByTurns: each ends as it would alone, and gives its turn back.
func TestHandshakesAreDoneByTurns(t *testing.T) {
	t.Parallel()
	server, client := shakers(t)
	r := newRota(1)
	var wg sync.WaitGroup
	for i := range 20 {
		near, far := net.Pipe() // who writes waits for who reads
		asks := client
		if i%4 == 3 {
			asks = client.Clone()
			asks.Certificates = nil
		}
		wg.Go(func() {
			c := &turntaker{Conn: near, rota: r, until: time.Now().Add(handshakeTime)}
			conn := tls.Server(c, server)
			err := conn.Handshake()
			c.end()
			if (err == nil) != (i%4 != 3) {
				t.Errorf("handshake %d ends with %v", i, err)
			}
			if err == nil {
				_, err = conn.Write([]byte("hello"))
			}
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, 5))
			}
			if (err == nil) != (i%4 != 3) {
				t.Errorf("connection %d ends with %v", i, err)
			}
			_ = near.Close()
		})
		wg.Go(func() {
			conn := tls.Client(far, asks)
			_, _ = io.CopyN(conn, conn, 5) // the other side says whether it may
			_, _ = io.Copy(io.Discard, far)
		})
	}
	wg.Wait()
	if r.free != 1 {
		t.Errorf("in the end there are %d turns", r.free)
	}
}

// TestAServersDoorHasTurns: what a server shakes hands with waits for one.
func TestAServersDoorHasTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		door, ok := newTLSCreds(&ca.Holder{}, slog.New(slog.DiscardHandler)).(tlsCreds)
		if !ok {
			t.Fatal("they are other credentials")
		}
		turns := turnsOf(runtime.GOMAXPROCS(0))
		for range turns {
			door.rota.enter(false, 0)
		}
		near, far := net.Pipe()
		go func() {
			_ = tls.Client(far, &tls.Config{MinVersion: tls.VersionTLS13, ServerName: "skep", NextProtos: []string{"h2"}}).Handshake() // it is refused
			_ = far.Close()
		}()
		ended := make(chan error)
		go func() { _, _, err := door.ServerHandshake(near); ended <- err }()
		synctest.Wait()
		select {
		case err := <-ended:
			t.Fatalf("it did not wait for a turn: %v", err)
		default:
		}
		door.rota.leave()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "this node is in no cluster") {
			t.Errorf("its turn ends with %v, want that there is no certificate", err)
		}
		if door.rota.free != 1 {
			t.Errorf("%d turns are free, want the one it had", door.rota.free)
		}
	})
}

// asShakers says to a process of this test that it is who asks: address, its certificate
// in hex, how many at once, and their patience.
const asShakers = "SKEP_SHAKERS"

func TestMain(m *testing.M) {
	if spec := os.Getenv(asShakers); spec != "" { // the other process of BenchmarkShakingAtOnce
		through, err := shake(spec)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(through)
		return
	}
	os.Exit(m.Run())
}

// shake has many ask at once, and returns how many got through.
func shake(spec string) (int64, error) {
	var address, encoded, within string
	var count int
	if _, err := fmt.Sscan(spec, &address, &encoded, &count, &within); err != nil {
		return 0, err
	}
	patience, err := time.ParseDuration(within)
	if err != nil {
		return 0, err
	}
	der, err := hex.DecodeString(encoded)
	if err != nil {
		return 0, err
	}
	_, client, err := newShakers()
	if err != nil {
		return 0, err
	}
	if client.RootCAs, err = trusting(der); err != nil {
		return 0, err
	}
	var through atomic.Int64
	var g errgroup.Group
	for range count {
		g.Go(func() error {
			raw, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(patience))
			if _, err := io.ReadFull(tls.Client(raw, client), make([]byte, 1)); err == nil {
				through.Add(1)
			}
			return nil
		})
	}
	err = g.Wait()
	return through.Load(), err
}

// BenchmarkShakingAtOnce has many in another process shake hands at once, each with
// 3 s of patience, and tells how many get through. "taskset -c 0" has them be more than
// there is time for.
func BenchmarkShakingAtOnce(b *testing.B) {
	server, _ := shakers(b)
	for _, count := range []int{1000, 5000} {
		for how, turns := range map[string]int{"all at once": 0, "by turns": turnsOf(runtime.GOMAXPROCS(0))} {
			b.Run(fmt.Sprintf("%d %s", count, how), func(b *testing.B) {
				for b.Loop() {
					shakeAtOnce(b, server, count, turns)
				}
			})
		}
	}
}

// shakeAtOnce is one crowd; without turns, all are served at once.
func shakeAtOnce(b *testing.B, server *tls.Config, count, turns int) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	r := newRota(turns)
	wg.Go(func() {
		for {
			raw, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer raw.Close()
				until := time.Now().Add(handshakeTime)
				_ = raw.SetDeadline(until)
				var conn *tls.Conn
				if turns == 0 {
					conn = tls.Server(raw, server)
					err = conn.Handshake()
				} else {
					t := &turntaker{Conn: raw, rota: r, until: until}
					conn = tls.Server(t, server)
					err = conn.Handshake()
					t.end()
				}
				if err == nil {
					_, _ = conn.Write([]byte{1})
				}
			})
		}
	})
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %x %d 3s", asShakers, l.Addr(), server.Certificates[0].Certificate[0], count))
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	_ = l.Close()
	wg.Wait()
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	b.ReportMetric(float64(n), "through/op")
}
