package control

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/witness"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	logv1 "github.com/skep-project/skep/proto/skep/log/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// auditor is the caller of ReadAudit.
type auditor struct {
	grpc.ServerStream
	ctx context.Context
	got chan *controlv1.ReadAuditResponse
}

func (a *auditor) Context() context.Context { return a.ctx }

func (a *auditor) Send(m *controlv1.ReadAuditResponse) error {
	select {
	case a.got <- proto.CloneOf(m):
		return nil
	case <-a.ctx.Done():
		return a.ctx.Err()
	}
}

// told is "who did [what names]" of each record.
func told(t *testing.T, lines [][]byte) string {
	t.Helper()
	var out []string
	for _, line := range lines {
		r, err := audit.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		text := r.Who + " " + r.Did
		for _, o := range r.Objects {
			text += " " + o.Kind + ":" + o.Name
		}
		if r.Result == audit.Refused {
			text += " refused"
		}
		out = append(out, text)
	}
	return strings.Join(out, "; ")
}

// readAll is a whole answer.
func (w *world) readAll(q *controlv1.ReadAuditRequest) (out []*controlv1.ReadAuditResponse, err error) {
	a := &auditor{ctx: w.ctx(), got: make(chan *controlv1.ReadAuditResponse, 1000)}
	err = w.ReadAudit(q, a)
	close(a.got)
	for m := range a.got {
		out = append(out, m)
	}
	return out, err
}

func (w *world) read(q *controlv1.ReadAuditRequest) string {
	w.Helper()
	all, err := w.readAll(q)
	if err != nil {
		w.Fatal(err)
	}
	var lines [][]byte
	for _, m := range all {
		lines = append(lines, m.GetLines()...)
	}
	return told(w.T, lines)
}

// audited is a swarm of which somebody asked for something.
func audited(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 2)
	w.cfg.DB.Attribute(witness.Deed)
	w.create(web())
	as := func(user, method string) context.Context {
		return rpc.WithCaller(w.Context(), rpc.Caller{Kind: rpc.User, User: user, Person: ca.UserIdentity{User: num(99)}, Method: "/skep.control.v1.Control/" + method})
	}
	if _, err := w.UpdateNode(as("alice", "UpdateNode"), &controlv1.UpdateNodeRequest{RequestId: fresh(), Ref: "dev02", LabelsAdd: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RemoveService(as("bob", "RemoveService"), &controlv1.RemoveServiceRequest{RequestId: fresh(), Ref: "web"}); err != nil {
		t.Fatal(err)
	}
	w.sights(&logv1.Sight{Deed: &logv1.Deed{Who: "node:" + num(7).String(), Did: "Session"}, Code: "Unauthenticated", Count: 1})
	return w
}

// sights writes down what a manager saw.
func (w *world) sights(v ...*logv1.Sight) {
	w.Helper()
	b, err := proto.Marshal(&logv1.Transaction{Sights: v})
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.log.Propose(w.Context(), b); err != nil {
		w.Fatal(err)
	}
}

func TestTheTrailIsReadAndNarrowed(t *testing.T) {
	t.Parallel()
	w := audited(t)
	const (
		begin, create = "swarm Begin", "user:uid:0 . service:web"
		update        = "user:alice UpdateNode node:dev02"
		remove        = "user:bob RemoveService service:web"
	)
	stranger := "node:" + num(7).String() + " Session refused"
	f := func(f *controlv1.AuditFilter) *controlv1.ReadAuditRequest {
		return &controlv1.ReadAuditRequest{Filter: f}
	}
	for name, tt := range map[string]struct {
		q    *controlv1.ReadAuditRequest
		want []string
	}{
		"everything":          {&controlv1.ReadAuditRequest{}, []string{begin, create, update, remove, stranger}},
		"behind a record":     {&controlv1.ReadAuditRequest{After: 3}, []string{remove, stranger}},
		"the newest":          {&controlv1.ReadAuditRequest{Tail: 2}, []string{remove, stranger}},
		"the newest of web":   {&controlv1.ReadAuditRequest{Tail: 1, Filter: &controlv1.AuditFilter{Objects: []string{"web"}}}, []string{remove}},
		"a user":              {f(&controlv1.AuditFilter{Who: []string{"alice"}}), []string{update}},
		"two of them":         {f(&controlv1.AuditFilter{Who: []string{"user:bob", "alice"}}), []string{update, remove}},
		"by the user's id":    {f(&controlv1.AuditFilter{Who: []string{num(99).String()}}), []string{update, remove}},
		"a node":              {f(&controlv1.AuditFilter{Who: []string{num(7).String()[:25]}}), []string{stranger}},
		"an object":           {f(&controlv1.AuditFilter{Objects: []string{"node:dev02"}}), []string{update}},
		"an object's id":      {f(&controlv1.AuditFilter{Objects: []string{num(2).String()}}), []string{update}},
		"a deed":              {f(&controlv1.AuditFilter{Did: []string{"removeservice"}}), []string{remove}},
		"what was refused":    {f(&controlv1.AuditFilter{Results: []string{"refused"}}), []string{stranger}},
		"a user and a deed":   {f(&controlv1.AuditFilter{Who: []string{"bob"}, Did: []string{"UpdateNode"}}), nil},
		"since they were all": {&controlv1.ReadAuditRequest{Since: 1}, []string{begin, create, update, remove, stranger}},
		"from later on":       {&controlv1.ReadAuditRequest{Since: time.Now().Add(time.Hour).UnixNano()}, nil},
		"until before":        {&controlv1.ReadAuditRequest{Until: 1}, nil},
	} {
		if got := w.read(tt.q); got != strings.Join(tt.want, "; ") {
			t.Errorf("%s: %q\nwant %q", name, got, strings.Join(tt.want, "; "))
		}
	}
	for name, q := range map[string]*controlv1.ReadAuditRequest{
		"another history": {After: 99}, "a result": f(&controlv1.AuditFilter{Results: []string{"maybe"}}), "a long tail": {Tail: 1 << 30},
	} {
		if _, err := w.readAll(q); !errdefs.IsOutOfRange(err) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestALongTrailComesInParts(t *testing.T) {
	t.Parallel()
	w := audited(t)
	for range 600 {
		w.sights(&logv1.Sight{Deed: &logv1.Deed{Who: "anyone", Did: "Enroll"}, Code: "PermissionDenied", Count: 1})
	}
	for _, q := range []*controlv1.ReadAuditRequest{{}, {Tail: 600}} {
		all, err := w.readAll(q)
		n := 0
		for _, m := range all {
			if len(m.GetLines()) > partLines {
				t.Errorf("a message has %d records", len(m.GetLines()))
			}
			n += len(m.GetLines())
		}
		if want := 605; err != nil || n != want && q.GetTail() == 0 || n != 600 && q.GetTail() > 0 || all[len(all)-1].GetAt() != 605 {
			t.Errorf("%d records came, up to %d: %v", n, all[len(all)-1].GetAt(), err)
		}
	}
}

func TestWhoFollowsTheTrailHearsWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := audited(t)
		ctx, stop := context.WithCancel(w.ctx())
		a := &auditor{ctx: ctx, got: make(chan *controlv1.ReadAuditResponse)}
		done := make(chan error, 1)
		go func() {
			done <- w.ReadAudit(&controlv1.ReadAuditRequest{Follow: true, Tail: 1, Filter: &controlv1.AuditFilter{Results: []string{"refused"}}}, a)
		}()
		if m := <-a.got; len(m.GetLines()) != 1 || m.GetAt() != 5 {
			t.Errorf("at first it hears %s, at %d", told(t, m.GetLines()), m.GetAt())
		}
		w.create(web()) // is not asked for
		for i := range 3 {
			w.sights(&logv1.Sight{Deed: &logv1.Deed{Who: "anyone", Did: fmt.Sprint("X", i)}, Code: "no", Count: 1})
			if m := <-a.got; told(t, m.GetLines()) != fmt.Sprintf("anyone X%d refused", i) {
				t.Errorf("then %s", told(t, m.GetLines()))
			}
		}
		gone := rpc.RefuseNoLeader(nil, 2, 1)
		w.cutOff.Store(&gone)
		if err := <-done; !errdefs.IsUnavailable(err) {
			t.Errorf("a manager that is cut off goes on: %v", err)
		}
		stop()
		w.cutOff.Store(nil)
		a.ctx = w.ctx()
		go func() {
			done <- w.ReadAudit(&controlv1.ReadAuditRequest{Follow: true, After: 9, Until: time.Now().Add(5 * time.Second).UnixNano()}, a)
		}()
		<-a.got
		if err := <-done; err != nil {
			t.Errorf("until in five seconds: %v", err)
		}
	})
}

// realRoot gives the swarm a root that can sign.
func (w *world) realRoot() []byte {
	w.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		w.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		w.Fatal(err)
	}
	c := proto.CloneOf(w.snapshot().Cluster())
	c.History, c.Root = num(201).Bytes(), &modelv1.RootCA{Certificates: [][]byte{der}, Key: pkcs8}
	w.do(&logv1.Operation{Op: &logv1.Operation_PutCluster{PutCluster: c}})
	return der
}

func TestAnExportVerifies(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	der := w.realRoot()
	w.cfg.DB.Attribute(witness.Deed)
	for range 300 {
		w.create(&controlv1.CreateServiceRequest{RequestId: fresh(), Spec: &modelv1.ServiceSpec{}, Template: web().GetTemplate()})
	}
	all, err := w.readAll(&controlv1.ReadAuditRequest{Export: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	head, seal := all[0].GetHead(), all[len(all)-1].GetSeal()
	e := audit.NewExport(&out, audit.Head{Cluster: idOf(head.GetCluster()).String(), History: idOf(head.GetHistory()).String(), Roots: head.GetRoots()})
	for _, m := range all {
		for _, line := range m.GetLines() {
			e.Line(line)
		}
	}
	s := &audit.Seal{Cluster: num(200).String(), History: num(201).String(), Seq: seal.GetSeq(), Hash: audit.Hash(seal.GetHash()),
		At: time.Unix(0, seal.GetAt()), Root: audit.Hash(seal.GetRoot()), Signature: seal.GetSignature()}
	if err := e.End(s); err != nil {
		t.Fatal(err)
	}
	report, err := audit.Verify(&out, [][]byte{der})
	if err != nil || report.Last != 301 || s.Root != sha256.Sum256(der) {
		t.Errorf("it is %+v, %v", report, err)
	}
}

// TestWhatIsRecordedHoldsNoSecret: what callers send in confidence is in no line.
func TestWhatIsRecordedHoldsNoSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.cfg.DB.Attribute(witness.Deed)
	v := web()
	v.Template.Container.Env = []string{"PASSWORD=hunter2"}
	v.RegistryAuth = &modelv1.RegistryAuth{Registry: "docker.io", Username: "robot", Password: []byte("hunter2")}
	w.create(v)
	secret := []byte("hunter2 is 16 by")
	hash := sha256.Sum256(secret)
	if _, err := w.CreateToken(w.ctx(), &controlv1.CreateTokenRequest{RequestId: fresh(), SecretHash: hash[:], Role: worker}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RotateJoinToken(w.ctx(), &controlv1.RotateJoinTokenRequest{RequestId: fresh(), Role: worker}); err != nil {
		t.Fatal(err)
	}
	c := w.snapshot().Cluster()
	n := 0
	for _, line := range w.snapshot().Trail().After(0) {
		n++
		for _, s := range []string{"hunter2", "robot", string(c.GetWorkerToken()), fmt.Sprintf("%x", c.GetWorkerToken()), fmt.Sprintf("%x", hash), string(c.GetRoot().GetKey())} {
			if bytes.Contains(line, []byte(s)) {
				t.Errorf("%q is in %s", s, line)
			}
		}
	}
	if n != 4 {
		t.Errorf("there are %d records", n)
	}
}
