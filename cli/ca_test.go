package cli_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/skep-project/skep/cli/clitest"
	"github.com/skep-project/skep/internal/rpc"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var rotationID = clitest.ID("rotation")

// rotating is a view of a rotation of four nodes, of which some have renewed.
func rotating(phase modelv1.RootPhase, renewed uint64, left ...*modelv1.RootStraggler) *controlv1.RootView {
	return &controlv1.RootView{
		Certificates: [][]byte{[]byte("root"), []byte("next")}, Now: clitest.Epoch.UnixNano(),
		Rotation: &controlv1.RotationView{
			Id: rotationID, Phase: phase, Target: []byte("next"), StartedAt: clitest.Epoch.UnixNano(), Deadline: clitest.Epoch.Add(24 * time.Hour).UnixNano(),
			OnStraggler: modelv1.StragglerPolicy_STRAGGLER_POLICY_WAIT, By: "uid:0", Nodes: 4, Trusting: 4, Renewed: renewed,
			Behind: uint64(len(left)), Stragglers: left,
		},
	}
}

// over is a view of the end of the rotation.
func over(outcome modelv1.RootOutcome, left ...*modelv1.RootStraggler) *controlv1.RootView {
	return &controlv1.RootView{
		Certificates: [][]byte{[]byte("next")}, Now: clitest.Epoch.UnixNano(),
		Last: &modelv1.RootRotationEnd{Id: rotationID, Outcome: outcome, StartedAt: 1, EndedAt: 2, Stragglers: left, LeftBehind: uint64(len(left))},
	}
}

var downNode = &modelv1.RootStraggler{Node: clitest.ID("dev10"), Name: "dev10", Reason: "down since 2026-03-01T11:00:00Z"}

func story(views ...*controlv1.RootView) *clitest.Swarm {
	s := clitest.Three()
	s.Root.Views = views
	return s
}

const (
	inRenew     = modelv1.RootPhase_ROOT_PHASE_RENEW
	done        = modelv1.RootOutcome_ROOT_OUTCOME_DONE
	quarantined = modelv1.RootOutcome_ROOT_OUTCOME_QUARANTINED
	aborted     = modelv1.RootOutcome_ROOT_OUTCOME_ABORTED
)

func TestTheRootIsPrintedAndWhatBecomesOfItIsSaid(t *testing.T) {
	t.Parallel()
	check(t, clitest.Run(t, clitest.Three(), "swarm", "ca"), 0, clitest.PEM([]byte("root")))
	check(t, clitest.Run(t, story(rotating(inRenew, 3, downNode)), "swarm", "ca"), 0, clitest.PEM([]byte("root"))+clitest.PEM([]byte("next")),
		"ctl: a rotation of the root is under way (renew, 3 of 4 nodes have renewed)")
	check(t, clitest.Run(t, story(over(quarantined, downNode)), "swarm", "ca"), 0, clitest.PEM([]byte("next")),
		"ctl: warning: the last rotation of the root left behind node dev10: down since")
}

func TestARotationIsFollowedToItsEnd(t *testing.T) {
	t.Parallel()
	views := []*controlv1.RootView{rotating(modelv1.RootPhase_ROOT_PHASE_TRUST, 0), rotating(inRenew, 1, downNode), over(done)}
	check(t, clitest.Run(t, story(views...), "swarm", "ca", "--rotate"), 0, clitest.PEM([]byte("next")),
		"rotation of the root: the next root is given to all nodes\n", "  renewed leaves: 1/4\n", "  node dev10: down since 2026-03-01T11:00:00Z\n")
	if r := clitest.Run(t, story(views...), "swarm", "ca", "--rotate", "--quiet"); r.Code != 0 || r.Out+r.Err != "" {
		t.Errorf("quietly: %+v", r)
	}
	broken := story(views...)
	broken.Fail["WatchRoot"] = []error{nil, rpc.Errorf(errdefs.ErrUnavailable, "an election is on")}
	check(t, clitest.Run(t, broken, "swarm", "ca", "--rotate"), 0, clitest.PEM([]byte("next")))
	joined := story(views...)
	joined.Root.Joined = true
	check(t, clitest.Run(t, joined, "swarm", "ca", "--rotate"), 0, clitest.PEM([]byte("next")), "under way already, asked for by uid:0; joining it")
	check(t, clitest.Run(t, story(rotating(inRenew, 1, downNode)), "swarm", "ca", "--rotate", "--detach"), 0, "goes on in the background")
}

func TestJobsLearnHowARotationEnded(t *testing.T) {
	t.Parallel()
	late := rotating(inRenew, 3, downNode)
	late.Now = late.GetRotation().GetDeadline() - int64(10*time.Millisecond)
	other := rotating(inRenew, 0)
	other.Rotation.Id, other.Rotation.By = clitest.ID("other"), "user:alice"
	first := rotating(inRenew, 3, downNode)
	for name, tt := range map[string]struct {
		views []*controlv1.RootView
		args  []string
		code  int
		says  string
	}{
		"done":                {views: []*controlv1.RootView{first, over(done)}},
		"some left behind":    {views: []*controlv1.RootView{first, over(quarantined, downNode)}, code: 4, says: "the rotation is over, and 1 were left behind: node dev10: down since"},
		"the deadline over":   {views: []*controlv1.RootView{first, late}, code: 5, says: "the deadline is over, and the rotation goes on waiting for 1: node dev10"},
		"aborted by somebody": {views: []*controlv1.RootView{first, over(aborted)}, code: 1, says: "the rotation was aborted"},
		"aborted as asked":    {views: []*controlv1.RootView{first, over(aborted)}, args: []string{"--abort"}},
		"nothing to abort":    {views: []*controlv1.RootView{over(done)}, args: []string{"--abort"}, code: 1, says: "no rotation of the root is under way"},
		"replaced":            {views: []*controlv1.RootView{first, other}, code: 1, says: "the rotation was replaced by another, asked for by user:alice"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if tt.args == nil {
				tt.args = []string{"--rotate"}
			}
			r := clitest.Run(t, story(tt.views...), append([]string{"swarm", "ca", "--format", "json"}, tt.args...)...)
			check(t, r, tt.code, "", tt.says)
			for line := range strings.Lines(r.Out) {
				var got map[string]any
				if err := json.Unmarshal([]byte(line), &got); err != nil || got["state"] == "" || got["root"] == "" {
					t.Errorf("line %q: %v", line, err)
				}
			}
		})
	}
	r := clitest.Run(t, story(first, over(quarantined, downNode)), "swarm", "ca", "--format", "json", "--rotate")
	want := `"state":"quarantined"`
	if lines := strings.Split(strings.TrimSpace(r.Out), "\n"); !strings.Contains(lines[len(lines)-1], want) || !strings.Contains(r.Out, `"stragglers":[{"kind":"node","id":"`) {
		t.Errorf("a job reads %s", r.Out)
	}
}

// TestAnExternalCAIsSaid: where it is and how it is asked, and its key by file alone.
func TestAnExternalCAIsSaid(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, web := write("cert", clitest.PEM([]byte("given"))), write("web", clitest.PEM([]byte("a"))+clitest.PEM([]byte("b")))
	key, bad := write("key", "00112233445566778899aabbccddeeff\n"), write("bad", "5ecre7")
	s := story(over(done))
	s.Root.Views[0].Last.Id = nil
	first := "protocol=cfssl,url=https://one:8888/,cacert=" + web + ",authkey=" + key + ",label=skep"
	r := clitest.Run(t, s, "swarm", "ca", "--rotate", "--detach", "--ca-cert", cert, "--cross-cert", cert, "--external-ca", first, "--external-ca", "protocol=cfssl,url=https://two")
	q := s.Root.Rotate
	if r.Code != 0 || len(q.GetExternal()) != 2 || string(q.GetCross()) != "given" || string(q.GetCertificate()) != "given" || len(q.GetKey()) > 0 {
		t.Fatalf("exit %d: %s; asked for %v", r.Code, r.Err, q)
	}
	if at := q.GetExternal()[0]; at.GetUrl() != "https://one:8888" || len(at.GetTrust()) != 2 || string(at.GetTrust()[1]) != "b" || len(at.GetAuthKey()) != 16 || at.GetLabel() != "skep" {
		t.Errorf("the first is %v", at)
	}
	for words, says := range map[string]string{
		"swarm ca --rotate --external-ca " + first:                                                     "--external-ca belongs to --ca-cert",
		"swarm ca --external-ca " + first:                                                              "--external-ca is for --rotate",
		"swarm ca --rotate --ca-cert " + cert + " --ca-key " + key + " --external-ca " + first:         "exclude each other",
		"swarm ca --rotate --cross-cert " + cert:                                                       "--cross-cert belongs to --ca-cert",
		"swarm update --external-ca url=https://one":                                                   "protocol=cfssl and url=https://HOST[:PORT] are needed",
		"swarm update --external-ca protocol=cfssl":                                                    "protocol=cfssl and url=https://HOST[:PORT] are needed",
		"swarm update --external-ca protocol=acme,url=https://one":                                     `protocol "acme": want cfssl`,
		"swarm update --external-ca protocol=cfssl,url=http://one":                                     "without TLS anybody on the way could sign",
		"swarm update --external-ca protocol=cfssl,url=https://one,url=https://two":                    "url is given twice",
		"swarm update --external-ca protocol=cfssl,url=https://one,key=abc":                            `"key" is not known`,
		"swarm update --external-ca protocol=cfssl,url=https://one,authkey=" + bad:                     "16 to 64 bytes in hex",
		"swarm update --external-ca protocol=cfssl,url=https://one,authkey=" + filepath.Join(dir, "x"): "no such file",
		"swarm update --external-ca protocol=cfssl,url=https://one,cacert=" + key:                      "holds no certificate",
		"swarm init --external-ca " + first:                                                            "--ca-cert and --external-ca belong together",
	} {
		r := clitest.Run(t, clitest.Three(), strings.Fields(words)...)
		check(t, r, 2, "", says)
		if strings.Contains(r.Err, "5ecre7") || strings.Contains(r.Err, "00112233") {
			t.Errorf("%s: a key is quoted: %s", words, r.Err)
		}
	}
}

func TestARotationSaysWhatIsWanted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := write("cert", clitest.PEM([]byte("given"))), write("key", "-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n")
	s := story(over(done))
	s.Root.Views[0].Last.Id = nil
	if r := clitest.Run(t, s, "swarm", "ca", "--rotate", "--detach", "--deadline", "3h", "--on-straggler", "quarantine", "--cert-expiry", "24h", "--replace"); r.Code != 0 {
		t.Fatalf("exit %d: %s", r.Code, r.Err)
	}
	q := s.Root.Rotate
	if q.GetDeadline() != int64(3*time.Hour) || q.GetOnStraggler() != modelv1.StragglerPolicy_STRAGGLER_POLICY_QUARANTINE || q.GetCertExpiry() != int64(24*time.Hour) || !q.GetReplace() {
		t.Errorf("asked for %v", q)
	}
	for words, says := range map[string]string{
		"--rotate --abort":              "exclude each other",
		"--deadline 1h":                 "--deadline is for --rotate and --abort",
		"--ca-cert x":                   "--ca-cert is for --rotate",
		"--replace":                     "--replace is for --rotate",
		"--rotate --on-straggler shoot": `--on-straggler "shoot": want wait or quarantine`,
		"--rotate --deadline -1h":       "want more than nothing",
		"--rotate --ca-cert " + cert:    "--ca-cert and --ca-key belong together, or --ca-cert and --external-ca",
		"--rotate --ca-cert " + cert + " --ca-key " + key: "it is no ECDSA key that can be read",
		"--rotate --ca-cert " + key + " --ca-key " + key:  `a certificate is needed, and it holds a "EC PRIVATE KEY"`,
		"--rotate --format yaml":                          "--format yaml: want json",
		"surplus":                                         "takes no argument",
	} {
		r := clitest.Run(t, clitest.Three(), append([]string{"swarm", "ca"}, strings.Fields(words)...)...)
		check(t, r, 2, "", says)
		if strings.Contains(r.Err, "c2VjcmV0") || strings.Contains(r.Err, "secret") {
			t.Errorf("%s: a key is quoted: %s", words, r.Err)
		}
	}
}
