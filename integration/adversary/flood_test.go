package adversary

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	dispatchv1 "github.com/skep-project/skep/proto/skep/dispatch/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// unmoved checks that a manager answers its users and its nodes as ever.
func (h *host) unmoved(t *testing.T, meanwhile string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	resp, err := h.control().ListNodes(ctx, &controlv1.ListNodesRequest{})
	if err != nil {
		t.Errorf("%s, %s answers with %v", meanwhile, h.name, err)
		return
	}
	for _, n := range resp.GetNodes() {
		if n.GetNode().GetDescription().GetHostname() == "w1" && n.GetNode().GetStatus().GetState() != modelv1.NodeState_NODE_STATE_READY {
			t.Errorf("%s, the worker is %v", meanwhile, n.GetNode().GetStatus().GetState())
		}
	}
}

// TestSlowloris: many connect and say nothing, or half of a first word, or all of it
// but what is asked for.
func TestSlowloris(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	var open []net.Conn
	defer func() {
		for _, c := range open {
			_ = c.Close()
		}
	}()
	for i := range 600 {
		c, err := attacker{from: "127.0.0.31"}.dial(within(t, soon), m.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		if i%2 == 0 {
			_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1}) // the beginning of a ClientHello
		}
	}
	m.unmoved(t, "while 600 connections say nothing")
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	if _, err := enroll(t, nobody("127.0.0.32").conn(t, m), text, csrOf(t, newKey(t))); err != nil {
		t.Errorf("meanwhile a machine joins: %v", err)
	}
}

// TestStrangersTakeAllPlaces: they finish the handshake and stay. Then no other
// stranger is let in, and everybody who has a certificate is.
func TestStrangersTakeAllPlaces(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	worker, _ := s.enrolled(t)
	var open []net.Conn
	hangUp := func() {
		for _, c := range open {
			_ = c.Close()
		}
	}
	defer hangUp()
	turned := 0
	for turned < 20 && len(open) < 2000 { // 512 stay, each for a minute
		raw, err := attacker{from: "127.0.0.33"}.dial(within(t, soon), m.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, raw)
		_ = raw.SetDeadline(time.Now().Add(soon))
		conn := tls.Client(raw, nobody("").tls())
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil {
			turned++
		}
	}
	if turned < 20 {
		t.Errorf("%d of %d strangers were turned away", turned, len(open))
	}
	m.unmoved(t, "while strangers take all places")
	if _, err := session(within(t, soon), worker.conn(t, m)); err != nil {
		t.Errorf("meanwhile a worker's session: %v", err)
	}
	hangUp()
	text, _ := s.token(t, &controlv1.CreateTokenRequest{})
	if err := until("a place for a stranger", func() error {
		_, err := enroll(t, nobody("127.0.0.34").conn(t, m), text, csrOf(t, newKey(t)))
		return err
	}); err != nil {
		t.Error(err)
	}
}

// TestOversizedMessages: what nobody has to say is not listened to.
func TestOversizedMessages(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	worker, _ := s.enrolled(t)
	// A stranger's connection is cut; gRPC would have kept 16 MiB of it.
	if _, err := enroll(t, nobody("127.0.0.35").conn(t, m), strings.Repeat("x", 1<<20), nil); !errdefs.IsUnavailable(err) {
		t.Errorf("a stranger says a megabyte: %v, want that the connection ends", err)
	}
	if _, err := renew(t, worker.conn(t, m), make([]byte, 17<<20)); !errdefs.IsResourceExhausted(err) {
		t.Errorf("a worker says 17 MiB: %v, want refused", err)
	}
	m.unmoved(t, "after it")
}

// TestHeaderFlood: what comes before a call is bounded as well.
func TestHeaderFlood(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	worker, _ := s.enrolled(t)
	for who, a := range map[string]attacker{"a stranger": nobody("127.0.0.36"), "a worker": worker} {
		cc := a.conn(t, m)
		if err := second(cav1.NewAuthorityClient(cc).Enroll(within(t, soon), &cav1.EnrollRequest{})); errdefs.IsUnavailable(err) {
			t.Fatal(err) // it has not heard yet what the manager takes
		}
		ctx := metadata.AppendToOutgoingContext(within(t, soon), "x", strings.Repeat("y", 64<<10))
		err := second(controlv1.NewControlClient(cc).ListNodes(ctx, &controlv1.ListNodesRequest{}))
		if err == nil || !strings.Contains(err.Error(), "header list size") {
			t.Errorf("%s sends 64 KiB of headers: %v, want refused", who, err)
		}
	}
	m.unmoved(t, "after it")
}

// TestStreamFlood: one connection of a worker has so many calls open and no more, and
// so has a stranger's.
func TestStreamFlood(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	worker, _ := s.enrolled(t)
	const calls = 100
	for _, tt := range []struct {
		who  string
		by   attacker
		most int
	}{{"a worker", worker, 32}, {"a stranger", nobody("127.0.0.37"), 4}} {
		cc := tt.by.conn(t, m)
		ctx, stop := context.WithCancel(within(t, soon))
		ended := make(chan error, calls)
		for range calls {
			// Its message never comes, so the call does not begin.
			st, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, cav1.Authority_Renew_FullMethodName)
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- st.RecvMsg(&cav1.RenewResponse{}) }()
		}
		for range calls - tt.most {
			if err := <-ended; !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "calls open on this connection") {
				t.Fatalf("%s: a call ends with %v, want that there are too many", tt.who, err)
			}
		}
		stop()
		for range tt.most {
			if err := <-ended; !errdefs.IsCanceled(err) && !errors.Is(err, context.Canceled) {
				t.Errorf("%s: one of %d calls ends with %v, want that it was open", tt.who, tt.most, err)
			}
		}
	}
	m.unmoved(t, "after it")
}

// TestConnectionFlood: one certificate has so many connections and no more.
func TestConnectionFlood(t *testing.T) {
	s := attacked(t)
	m, _ := s.leader(t)
	worker, _ := s.enrolled(t)
	other, _ := s.enrolled(t)
	taken := 0
	for range 40 {
		raw, err := worker.dial(within(t, soon), m.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(soon))
		conn := tls.Client(raw, worker.tls())
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 9)); err == nil {
			taken++
		}
	}
	if taken != 16 {
		t.Errorf("one certificate has %d connections, want 16", taken)
	}
	if _, err := session(within(t, soon), other.conn(t, m)); err != nil {
		t.Errorf("meanwhile another worker's session: %v", err)
	}
	m.unmoved(t, "meanwhile")
}

// TestAWorkerSaysTooMuch: of itself and of tasks that nobody knows, megabytes of it,
// and what moves the cursors of terminals. What one node says would go into the log of
// all managers with what the others say.
func TestAWorkerSaysTooMuch(t *testing.T) {
	s := attacked(t)
	leader, followers := s.leader(t)
	for _, m := range []*host{leader, followers[0]} {
		worker, _ := s.enrolled(t)
		st, err := session(within(t, soon), worker.conn(t, m))
		if err != nil {
			t.Fatal(err)
		}
		labels := map[string]string{}
		for range 2000 {
			labels[id.New().String()] = strings.Repeat("x", 1000)
		}
		d := &modelv1.NodeDescription{Hostname: "\x1b[2J\x1b]0;owned\x07loud", Runtime: strings.Repeat("y", 2<<20), EngineLabels: labels}
		if err := st.Send(&dispatchv1.SessionRequest{Beat: 2, Description: d}); err != nil {
			t.Fatal(err)
		}
		reports := &dispatchv1.Reports{Sequence: 1}
		for range 4000 {
			status := &modelv1.TaskStatus{State: modelv1.TaskState_TASK_STATE_FAILED, Error: strings.Repeat("z", 3000)}
			reports.Reports = append(reports.Reports, &dispatchv1.TaskReport{Task: id.New().Bytes(), Status: status})
		}
		if err := st.Send(&dispatchv1.SessionRequest{Beat: 3, Reports: reports}); err != nil {
			t.Fatal(err)
		}
		for acknowledged := false; !acknowledged; {
			resp, err := st.Recv()
			if err != nil {
				t.Fatalf("at %s its session ends with %v", m.name, err)
			}
			acknowledged = resp.GetReports() == 1
		}
		m.unmoved(t, "after it")
	}
	if now, _ := s.leader(t); now != leader {
		t.Errorf("%s leads, and %s did", now.name, leader.name)
	}
	out, err := leader.ctl("node", "ls", "--format", "json")
	if err != nil || !strings.Contains(out, "?[2J?]0;owned?loud") || strings.Contains(out, `\u001b`) || strings.Contains(out, "\x1b") {
		t.Errorf("an operator sees %q, %v", out, err)
	}
	log, err := os.ReadFile(leader.logs)
	if err != nil || bytes.Contains(log, []byte("commit what nodes reported")) {
		t.Errorf("what nodes reported was not committed at first: %v", err)
	}
}
