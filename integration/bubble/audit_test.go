package bubble

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/manager/audit"
	"github.com/skep-project/skep/manager/backup"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// export is what "ctl audit export" writes at a manager.
func (h *host) export() []byte {
	t := h.c.t
	t.Helper()
	ctx, stop := h.c.within(10 * time.Second)
	defer stop()
	stream, err := h.control().ReadAudit(ctx, &controlv1.ReadAuditRequest{Export: true})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	var to *audit.Export
	var seal audit.Seal
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return out.Bytes()
		}
		if err != nil {
			t.Fatalf("export at %s: %v", h.name, err)
		}
		if v := m.GetHead(); v != nil {
			seal.Cluster, seal.History = mustID(t, v.GetCluster()).String(), mustID(t, v.GetHistory()).String()
			to = audit.NewExport(&out, audit.Head{Cluster: seal.Cluster, History: seal.History, Roots: v.GetRoots()})
		}
		for _, line := range m.GetLines() {
			to.Line(line)
		}
		if v := m.GetSeal(); v != nil {
			seal.Seq, seal.Hash, seal.At, seal.Root, seal.Signature = v.GetSeq(), audit.Hash(v.GetHash()), time.Unix(0, v.GetAt()), audit.Hash(v.GetRoot()), v.GetSignature()
			seal.Manager = v.GetManager()
			if err := to.End(&seal); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// records are those of a manager's trail, which verifies.
func (h *host) records() (out []audit.Record) {
	t := h.c.t
	t.Helper()
	data := h.export()
	if _, err := audit.Verify(bytes.NewReader(data), nil); err != nil {
		t.Fatalf("the export of %s: %v", h.name, err)
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	for _, line := range lines[1 : len(lines)-1] {
		r, err := audit.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// recorded waits for a record that is so.
func (h *host) recorded(what string, is func(audit.Record) bool) {
	h.c.t.Helper()
	h.c.until(20*time.Second, what+" is in the trail", func() bool { return slices.ContainsFunc(h.records(), is) })
}

// TestTheTrailSaysWhoDidWhatThroughWhom is the story of the audit trail: three
// managers, their leader lost in the middle, and every manager tells the same.
func TestTheTrailSaysWhoDidWhatThroughWhom(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(3, &modelv1.ClusterSpec{Autolock: true})
		ms[0].ready(3)
		root := "user:uid:0"
		ms[0].recorded("the founding", func(r audit.Record) bool { return r.Did == "Init" && r.Who == root && r.Seq == 2 })
		ms[0].recorded("a manager's joining", func(r audit.Record) bool {
			return r.Did == "Enroll" && r.Who == "anyone" && r.From == ms[1].addr && r.Result == audit.Done && len(r.Objects) > 0
		})
		// Through a follower, by a user with a certificate.
		who := ms[0].user("alice", asOperator, 0)
		cc := c.at(ms[1], who)
		defer func() { _ = cc.Close() }()
		ctx, stop := c.within(time.Minute)
		defer stop()
		alice := controlv1.NewControlClient(cc)
		if _, err := alice.CreateService(ctx, &controlv1.CreateServiceRequest{RequestId: requestID(), Spec: replicated("web", 1), Template: template("image")}); err != nil {
			t.Fatal(err)
		}
		ms[2].recorded("alice's service", func(r audit.Record) bool {
			return r.Did == "CreateService" && r.Who == "user:alice" && r.Via == ms[1].id.String() && r.From == "10.0.0.98" &&
				len(r.Objects) == 1 && r.Objects[0].Name == "web" && r.User != "" && r.Request != ""
		})
		// Refused at the follower, which the leader never hears of otherwise.
		for range 3 {
			if _, err := alice.RemoveNode(ctx, &controlv1.RemoveNodeRequest{RequestId: requestID(), Ref: "m1"}); !errdefs.IsPermissionDenied(err) {
				t.Fatalf("an operator removes a node: %v", err)
			}
		}
		ms[0].recorded("her refusal", func(r audit.Record) bool {
			return r.Did == "RemoveNode" && r.Result == audit.Refused && r.Code == "PermissionDenied" && r.Who == "user:alice" && r.By == ms[1].id.String() && r.Count == 3
		})
		stream, err := alice.ReadAudit(ctx, &controlv1.ReadAuditRequest{})
		if err == nil {
			_, err = stream.Recv()
		}
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("an operator reads the trail: %v", err)
		}
		// What shows a secret changes nothing and is told all the same.
		key := ms[2].unlockKey().GetUnlockKey()
		ms[0].recorded("the showing of the unlock key", func(r audit.Record) bool {
			return r.Did == "GetUnlockKey" && r.Who == root && r.By == ms[2].id.String() && r.Result == audit.Done
		})
		// The leader dies; it comes back locked, is given a wrong key, and the right one.
		ms[0].kill()
		c.until(20*time.Second, "another leads", func() bool { return ms[1].record() != nil })
		ms[0].start()
		if err := ms[0].unlock(ms[0].rotatedText(key)); err == nil {
			t.Error("a mistyped key unlocks")
		}
		ms[0].mustUnlock(key)
		for result, what := range map[string]string{audit.Refused: "the mistyped key", audit.Done: "the unlock"} {
			ms[1].recorded(what, func(r audit.Record) bool { return r.Did == "Unlock" && r.Result == result && r.By == ms[0].id.String() })
		}
		var same [][]audit.Record
		for _, m := range ms {
			same = append(same, m.records())
		}
		shortest := min(len(same[0]), len(same[1]), len(same[2]))
		for i := range shortest {
			if same[0][i].Prev != same[1][i].Prev || same[1][i].Prev != same[2][i].Prev {
				t.Fatalf("record %d differs from manager to manager", i+1)
			}
		}
		// The CA signs what is there, and the swarm goes on with it after a restore.
		time.Sleep(time.Hour + time.Minute)
		ms[1].recorded("a checkpoint", func(r audit.Record) bool { return r.Did == audit.Checkpoint && r.Seal != nil })
	})
}

// TestAFloodOfBadJoinsCostsTheTrailNextToNothing: ten minutes of it are a few
// records, all of them counted.
func TestAFloodOfBadJoinsCostsTheTrailNextToNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(1, nil)
		ms[0].ready(1)
		text, _ := ms[0].token(&controlv1.CreateTokenRequest{})
		token, err := ca.ParseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		token.Secret = ca.NewTokenSecret()
		joiner := c.host("stranger")
		before := len(ms[0].records())
		const times = 600
		for range times {
			if _, err := joiner.ask(token.Reveal(), ms[0]); err == nil {
				t.Fatal("a wrong token lets in")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(30 * time.Minute)
		counted, n := uint64(0), 0
		for _, r := range ms[0].records()[before:] {
			if r.Did == "Enroll" {
				counted += max(1, r.Count)
				n++
				if r.Result != audit.Refused || r.Who != "anyone" || r.From != joiner.addr {
					t.Errorf("a record says %+v", r)
				}
			}
		}
		if counted < times || n > 10 {
			t.Errorf("%d refusals are counted in %d records, want at least %d in at most 10", counted, n, times)
		}
	})
}

// TestNoSecretIsInAnExport: every secret that there is in a swarm is made, used and
// looked for.
func TestNoSecretIsInAnExport(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(2, &modelv1.ClusterSpec{Autolock: true})
		ms[0].ready(2)
		ctx, stop := c.within(time.Minute)
		defer stop()
		api := ms[0].control()
		secrets := map[string][]byte{"an unlock key": []byte(ms[0].unlockKey().GetUnlockKey()), "another unlock key": []byte(ms[0].rotateUnlockKey())}
		for role, name := range map[modelv1.Role]string{asWorker: "worker", modelv1.Role_ROLE_MANAGER: "manager"} {
			resp, err := api.GetJoinToken(ctx, &controlv1.GetJoinTokenRequest{Role: role})
			if err != nil {
				t.Fatal(err)
			}
			secrets["the token of a "+name] = []byte(resp.GetToken())
			rotated, err := api.RotateJoinToken(ctx, &controlv1.RotateJoinTokenRequest{RequestId: requestID(), Role: role})
			if err != nil {
				t.Fatal(err)
			}
			secrets["the next token of a "+name] = []byte(rotated.GetToken())
		}
		text, made := ms[0].token(&controlv1.CreateTokenRequest{})
		secrets["a made token"] = []byte(text)
		worker := c.host("w1")
		if _, err := worker.ask(text, ms[0]); err != nil {
			t.Fatal(err)
		}
		if _, err := c.host("w2").ask(text, ms[1]); err == nil { // used already
			t.Error("it lets in two")
		}
		tmpl := template("image")
		tmpl.Container.Env = []string{"PASSWORD=hunter2-env"}
		secrets["a service's environment"] = []byte("hunter2-env")
		secrets["a registry's password"] = []byte("hunter2-registry")
		req := &controlv1.CreateServiceRequest{RequestId: requestID(), Spec: replicated("web", 1), Template: tmpl,
			RegistryAuth: &modelv1.RegistryAuth{Registry: "docker.io", Username: "robot", Password: []byte("hunter2-registry")}}
		if _, err := api.CreateService(ctx, req); err != nil {
			t.Fatal(err)
		}
		bad := template("")
		bad.Container.Env = []string{"hunter2-env"}
		if _, err := api.CreateService(ctx, &controlv1.CreateServiceRequest{RequestId: requestID(), Spec: replicated("bad", 1), Template: bad}); err == nil {
			t.Error("a service without an image is made")
		}
		if err := ms[1].unlock("SKEPKEY-1-hunter2"); err == nil {
			t.Error("it unlocks what is not locked")
		}
		ms[0].user("alice", asOperator, 0)
		if _, err := api.RevokeToken(ctx, &controlv1.RevokeTokenRequest{RequestId: requestID(), Ref: mustID(t, made.GetId()).String()}); err != nil {
			t.Fatal(err)
		}
		data := ms[0].mustBackup()
		time.Sleep(10 * time.Second)
		export := ms[0].export()
		for _, did := range []string{"GetJoinToken", "RotateJoinToken", "GetUnlockKey", "RotateUnlockKey", "CreateToken", "Enroll", "CreateService", "CreateUser", "Backup"} {
			if !bytes.Contains(export, []byte(`"did":"`+did+`"`)) {
				t.Errorf("no record says %s", did)
			}
		}
		for _, want := range []string{`"code":"InvalidArgument"`, `"code":"PermissionDenied"`} {
			if !bytes.Contains(export, []byte(want)) {
				t.Errorf("nothing was refused with %s", want)
			}
		}
		for what, secret := range inBackup(t, data) {
			secrets[what] = secret
		}
		for what, secret := range secrets {
			for _, form := range []string{string(secret), hex.EncodeToString(secret), base64.StdEncoding.EncodeToString(secret), fmt.Sprintf("%d", secret)} {
				if strings.Contains(string(export), form) {
					t.Errorf("%s is in the export", what)
				}
			}
			if token, err := ca.ParseToken(string(secret)); err == nil && bytes.Contains(export, []byte(hex.EncodeToString(token.Secret.Reveal()))) {
				t.Errorf("the secret of %s is in the export", what)
			}
		}
	})
}

// TestTheTrailGoesOnAfterARestoreAndAForcedCluster, and says so.
func TestTheTrailGoesOnAfterARestoreAndAForcedCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *cluster) {
		ms := c.managers(1, nil)
		ms[0].ready(1)
		ms[0].define("web")
		data := ms[0].mustBackup()
		was := ms[0].records()
		ms[0].kill()
		other := c.host("other")
		other.mustRestore(data, true)
		now := other.records()
		if len(now) <= len(was) || !slices.ContainsFunc(now, func(r audit.Record) bool { return r.Did == "Restore" && r.Who == "user:uid:0" }) {
			t.Errorf("after a restore the trail is %+v", now)
		}
		if i := slices.IndexFunc(now, func(r audit.Record) bool { return r.Did == audit.History }); i < 0 || now[i-1].Index >= now[i].Index {
			t.Error("nothing says that another history began")
		}
		ctx, stop := c.within(20 * time.Second)
		defer stop()
		if _, err := other.local().Init(ctx, &localv1.InitRequest{ForceNewCluster: true}); err != nil {
			t.Fatal(err)
		}
		other.recorded("the forced cluster", func(r audit.Record) bool { return r.Did == "Init" && r.Seq > uint64(len(now)) })
	})
}

// inBackup is every secret of the state in a backup.
func inBackup(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	im, err := backup.Read(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	snap := im.Store.Snapshot()
	k := snap.Cluster()
	out := map[string][]byte{
		"the root's key": k.GetRoot().GetKey(), "the worker token's secret": k.GetWorkerToken(), "the manager token's secret": k.GetManagerToken(), "the key of the lock": k.GetUnlockKey(),
	}
	for v := range snap.Tokens() {
		out["the hash of a made token"] = v.GetSecretHash()
	}
	for what, secret := range out {
		if len(secret) < 16 {
			t.Fatalf("%s is %d bytes", what, len(secret))
		}
	}
	return out
}
