package audit_test

import (
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/rpc"
	"github.com/skep-project/skep/manager/audit"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
)

const node = "0123456789abcdefghijklmno"

// recorded is a swarm in which things were done.
func recorded(t *testing.T) *clitest.Swarm {
	t.Helper()
	s := clitest.Three()
	trail, err := clitest.NewTrail(
		audit.Record{Who: "user:alice", From: "10.0.0.9", Via: node, Did: "CreateService", Result: audit.Done, Objects: []audit.Object{{Kind: "service", ID: node, Name: "web"}}},
		audit.Record{Who: "anyone", From: "10.6.6.6", By: node, Did: "Enroll", Result: audit.Refused, Code: "PermissionDenied", Count: 7, First: clitest.Epoch.Add(-2 * time.Minute),
			Reason: "join token refused: it is not one of the cluster's: it was rotated or mistyped, or is over for long"},
		audit.Record{Who: "node:" + node, Did: "Renew", Result: audit.Done, Objects: []audit.Object{{Kind: "node", ID: node, Name: "dev\x1b[2J"}}, More: 2},
		audit.Record{Who: "user:uid:0", On: node, Did: "GetUnlockKey", Result: audit.Done},
	)
	if err != nil {
		t.Fatal(err)
	}
	s.Trail = trail
	return s
}

func TestRecordsAreListed(t *testing.T) {
	time.Local = time.UTC
	r := clitest.Run(t, recorded(t), "audit", "ls")
	const want = `
SEQ  AT                   WHO                DID            OBJECTS                  RESULT                                                                                             FROM
1    2026-03-01 11:00:00  swarm              Begin                                   done
2    2026-03-01 11:59:00  user:alice         CreateService  service web              done                                                                                               10.0.0.9 via 0123456789ab
3    2026-03-01 11:59:01  anyone             Enroll                                  refused 7 times since 11:58:00: join token refused: it is not one of the cluster's: it was …      10.6.6.6 seen by 0123456789ab
4    2026-03-01 11:59:02  node:0123456789ab  Renew          node dev [2J, 2 more     done
5    2026-03-01 11:59:03  user:uid:0         GetUnlockKey                            done                                                                                               socket of 0123456789ab
`
	if diff := cmp.Diff(squeeze(want), squeeze(r.Out)); diff != "" || r.Code != 0 {
		t.Errorf("exit %d %s (-want +got):\n%s", r.Code, r.Err, diff)
	}
	r = clitest.Run(t, recorded(t), "audit", "ls", "--follow")
	if lines := strings.Split(r.Out, "\n"); r.Code != 0 || lines[1] != "2026-03-01 11:59:00 #2 user:alice CreateService service web done (10.0.0.9 via 0123456789ab)" {
		t.Errorf("followed: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	r = clitest.Run(t, recorded(t), "audit", "ls", "--format", "{{.Seq}} {{.Code}} {{.Count}}", "--no-trunc")
	if lines := strings.Split(r.Out, "\n"); r.Code != 0 || lines[2] != "3 PermissionDenied 7" {
		t.Errorf("as asked: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	s := recorded(t)
	r = clitest.Run(t, s, "audit", "ls", "--format", "json")
	var want2 strings.Builder
	for _, line := range s.Trail.After(0) {
		want2.WriteString(string(line) + "\n")
	}
	if r.Code != 0 || r.Out != want2.String() {
		t.Errorf("as JSON: exit %d\n%swant the lines as they are\n%s", r.Code, r.Out, want2.String())
	}
}

// squeeze makes one space of many.
func squeeze(s string) string {
	var out []string
	for line := range strings.Lines(strings.TrimSpace(s)) {
		out = append(out, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(out, "\n")
}

func TestWhatIsTypedIsAskedFor(t *testing.T) {
	t.Parallel()
	s := recorded(t)
	r := clitest.Run(t, s, "audit", "ls", "--since", "1h", "--until", "2026-03-01T12:00:00Z", "--user", "alice", "--user", "bob", "--object", "web", "--did", "UpdateNode", "--refused", "-n", "5")
	want := &controlv1.ReadAuditRequest{
		Since: clitest.Ago(time.Hour), Until: clitest.Epoch.UnixNano(), Tail: 5,
		Filter: &controlv1.AuditFilter{Who: []string{"alice", "bob"}, Objects: []string{"web"}, Did: []string{"UpdateNode"}, Results: []string{"refused"}},
	}
	if diff := cmp.Diff(want, s.Narrowed(), protocmp.Transform()); r.Code != 0 || diff != "" {
		t.Errorf("exit %d %s: %s", r.Code, r.Err, diff)
	}
	if clitest.Run(t, s, "audit", "ls", "--since", "@3"); s.Narrowed().GetAfter() != 3 {
		t.Errorf("asked behind %d", s.Narrowed().GetAfter())
	}
	for _, args := range [][]string{{"ls", "--since", "soon"}, {"ls", "--until", "@3"}, {"verify", "a", "b"}, {"verify", "no such file"}, {"verify", "--root", "no such file"}} {
		if r := clitest.Run(t, s, append([]string{"audit"}, args...)...); r.Code != say.Misused {
			t.Errorf("%v: exit %d %s", args, r.Code, r.Err)
		}
	}
}

func TestAReaderGoesOnBehindTheLastRecord(t *testing.T) {
	t.Parallel()
	s := recorded(t)
	s.Fail["ReadAudit"] = []error{rpc.Errorf(errdefs.ErrUnavailable, "the manager went away")}
	if r := clitest.Run(t, s, "audit", "ls", "--format", "{{.Seq}}"); r.Code != 0 || r.Out != "1\n2\n3\n4\n5\n" {
		t.Errorf("exit %d %q %s", r.Code, r.Out, r.Err)
	}
	s.Fail["ReadAudit"] = []error{rpc.Errorf(errdefs.ErrUnavailable, "the manager went away")}
	if r := clitest.Run(t, s, "audit", "verify"); r.Code != 0 || !strings.HasPrefix(r.Out, "Whole: records 1 to 5 of swarm ") {
		t.Errorf("exit %d %q %s", r.Code, r.Out, r.Err)
	}
}

func TestAnExportIsVerifiedOffline(t *testing.T) {
	t.Parallel()
	s := recorded(t)
	dir := t.TempDir()
	file, root := filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "root.pem")
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Trail.Root}), 0o600); err != nil {
		t.Fatal(err)
	}
	r := clitest.Run(t, s, "audit", "export", "-o", file)
	if info, err := os.Stat(file); r.Code != 0 || err != nil || info.Mode().Perm() != 0o600 || r.Out != "Wrote records 1 to 5, sealed by the CA.\n" {
		t.Fatalf("exit %d %s%s: %v", r.Code, r.Out, r.Err, err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if r := clitest.Run(t, s, "audit", "export", "-o", file); r.Code != say.Misused || !strings.Contains(r.Err, "--force replaces it") {
		t.Errorf("again: exit %d %s", r.Code, r.Err)
	}
	if r := clitest.Run(t, s, "audit", "export", "-o", file, "--force"); r.Code != 0 {
		t.Errorf("by force: exit %d %s", r.Code, r.Err)
	}
	if r := clitest.Run(t, nil, "audit", "verify", file); r.Code != 0 || !strings.Contains(r.Out, "sealed 2026-03-01T12:00:00Z") || !strings.Contains(r.Err, "--root") {
		t.Errorf("without a daemon: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	if r := clitest.Run(t, nil, "audit", "verify", "--root", root, file); r.Code != 0 || r.Err != "" {
		t.Errorf("with the root: exit %d\n%s%s", r.Code, r.Out, r.Err)
	}
	if r := clitest.RunIn(t, t.Context(), nil, say.Streams{In: strings.NewReader(string(data))}, "audit", "verify", "-"); r.Code != 0 {
		t.Errorf("of standard input: exit %d %s", r.Code, r.Err)
	}
	changed := filepath.Join(dir, "changed.jsonl")
	if err := os.WriteFile(changed, []byte(strings.Replace(string(data), "alice", "carol", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := clitest.Run(t, nil, "audit", "verify", changed); r.Code != say.Refused || !strings.Contains(r.Err, "changed.jsonl: line 4: record 3 does not follow from record 2 as it is here") {
		t.Errorf("a changed one: exit %d %s%s", r.Code, r.Out, r.Err)
	}
	other := recorded(t)
	if err := os.WriteFile(root, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.Trail.Root}), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := clitest.Run(t, nil, "audit", "verify", "--root", root, file); r.Code != say.Refused || !strings.Contains(r.Err, "which is none of those given") {
		t.Errorf("with another root: exit %d %s%s", r.Code, r.Out, r.Err)
	}
}
