package cli_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/cli/clitest"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var condemnationID = clitest.ID("condemnation")

var condemnedNodes = []*modelv1.Condemned{{Node: clitest.ID("dev02"), Name: "dev02", Remove: true}}

// condemning is a view of a condemnation of dev02 at a step.
func condemning(step modelv1.CondemnationStep, rotation *controlv1.RootView) *controlv1.RootView {
	v := rotation
	if v == nil {
		v = &controlv1.RootView{Certificates: [][]byte{[]byte("root")}, Now: clitest.Epoch.UnixNano()}
	}
	v.Condemnation = &modelv1.Condemnation{Id: condemnationID, Nodes: condemnedNodes, Step: step, By: "uid:0", StartedAt: clitest.Epoch.UnixNano(),
		Relocked: step == modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT}
	return v
}

// settled is a view of its end.
func settled(left ...*modelv1.RootStraggler) *controlv1.RootView {
	return &controlv1.RootView{Certificates: [][]byte{[]byte("next")}, Now: clitest.Epoch.UnixNano(), Condemned: &modelv1.CondemnationEnd{
		Id: condemnationID, Nodes: condemnedNodes, Stragglers: left, LeftBehind: uint64(len(left)), Relocked: true}}
}

const (
	stepOut  = modelv1.CondemnationStep_CONDEMNATION_STEP_OUT
	stepKey  = modelv1.CondemnationStep_CONDEMNATION_STEP_DATA_KEY
	stepRoot = modelv1.CondemnationStep_CONDEMNATION_STEP_ROOT
)

func locked(s *clitest.Swarm) *clitest.Swarm {
	s.Cluster.Cluster.Spec.Autolock = true
	return s
}

func TestCompromisedSaysWhatItWouldDoAndDoesNothing(t *testing.T) {
	t.Parallel()
	s := locked(story(over(done)))
	r := clitest.Run(t, s, "node", "rm", "--compromised", "dev02")
	check(t, r, 1, "", "ctl: nothing was done yet. dev02 would be removed from the swarm; the standing join tokens and 0 others end, and there are none until the root is another; "+
		"the data key, the unlock key and the root are replaced; nodes and users that have not renewed their certificates within 10m0s of that are left behind",
		"ctl: hint: to have it done: ctl node rm --compromised --force dev02\n")
	if len(s.Root.Condemned) > 0 {
		t.Error("it was done")
	}
	check(t, clitest.Run(t, s, "node", "demote", "--compromised", "--deadline", "1h", "--on-straggler", "wait", "dev02"), 1, "",
		"dev02 would be made a worker", "which is to be within 1h0m0s", "ctl node demote --compromised --force dev02")
	// What is under way already is joined without a word more.
	s = story(condemning(stepKey, nil), settled())
	s.Root.Joined = true
	check(t, clitest.Run(t, s, "node", "demote", "--compromised", "--quiet", "dev02"), 0, "")
}

func TestWhatACompromisedManagerKnewIsReplacedAndTheUnlockKeyShownOnce(t *testing.T) {
	t.Parallel()
	views := func() []*controlv1.RootView {
		return []*controlv1.RootView{condemning(stepOut, nil), condemning(stepKey, nil), condemning(stepRoot, rotating(inRenew, 1, downNode)), settled()}
	}
	s := locked(story(views()...))
	r := clitest.Run(t, s, "node", "rm", "--compromised", "--force", "--deadline", "1h", "dev02", "dev03")
	check(t, r, 0, "Nothing that dev02 knew is worth anything any more.\n", "what dev02 knew: it is taken out of the managers\n", "what dev02 knew: the data key is replaced\n",
		"what dev02 knew: the unlock key was replaced, and the root is\n", "  renewed leaves: 1/4\n")
	if n := strings.Count(r.Out+r.Err, "SKEPKEY-1-"); n != 1 || !strings.Contains(r.Out, "    SKEPKEY-1-") {
		t.Errorf("the unlock key is shown %d times:\n%s%s", n, r.Out, r.Err)
	}
	if q := s.Root.Condemned; len(q) != 2 || q[0].GetRef() != "dev02" || !q[0].GetRemove() || q[0].GetDeadline() != int64(time.Hour) || q[1].GetRef() != "dev03" {
		t.Errorf("asked for %v", q)
	}
	for _, args := range [][]string{{"--quiet"}, {"--format", "json"}, {"--detach"}} {
		r := clitest.Run(t, locked(story(views()...)), append([]string{"node", "demote", "--compromised", "--force", "dev02"}, args...)...)
		if r.Code != 0 || strings.Contains(r.Out+r.Err, "SKEPKEY-1-") {
			t.Errorf("%v: exit %d, a key is shown:\n%s%s", args, r.Code, r.Out, r.Err)
		}
		if args[0] == "--detach" {
			check(t, r, 0, "What dev02 knew is replaced in the background; follow it with: ctl node demote --compromised dev02\n", "ctl swarm unlock-key shows it")
		}
	}
}

func TestScriptsLearnHowACondemnationEnded(t *testing.T) {
	t.Parallel()
	late := rotating(inRenew, 3, downNode)
	late.Now = late.GetRotation().GetDeadline() - int64(10*time.Millisecond)
	other := settled()
	other.Condemned.Id = clitest.ID("other")
	for name, tt := range map[string]struct {
		last *controlv1.RootView
		code int
		says string
		step string
	}{
		"done":              {settled(), 0, "", "done"},
		"some left behind":  {settled(downNode), 4, "nothing that dev02 knew is worth anything any more, and 1 were left behind: node dev10: down since", "left-behind"},
		"the deadline over": {condemning(stepRoot, late), 5, "the root that dev02 knew stays trusted for 1: node dev10", "root"},
		"forgotten":         {other, 1, "how it ended is not known any more", "out"},
	} {
		r := clitest.Run(t, story(condemning(stepOut, nil), tt.last), "node", "rm", "--compromised", "--force", "--format", "json", "dev02")
		check(t, r, tt.code, "", tt.says)
		var got map[string]any
		lines := strings.Split(strings.TrimSpace(r.Out), "\n")
		if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil || got["step"] != tt.step {
			t.Errorf("%s: the last line is %q (%v), want step %s", name, lines[len(lines)-1], err, tt.step)
		}
	}
}

func TestWordsThatAreForCompromisedOnly(t *testing.T) {
	t.Parallel()
	for words, says := range map[string]string{
		"rm --deadline 1h dev02":                              "node rm: --deadline is for --compromised",
		"demote --on-straggler wait dev02":                    "node demote: --on-straggler is for --compromised",
		"demote --compromised --on-straggler shoot dev02":     `--on-straggler "shoot": want wait or quarantine`,
		"demote --compromised --deadline -1h --force dev02":   "want more than nothing",
		"rm --compromised --format yaml dev02":                "--format yaml: want json",
		"rm --compromised":                                    "node rm: no node given",
		"rm --compromised --force --timeout 0s --quiet dev02": "--timeout 0s: want more than nothing",
	} {
		check(t, clitest.Run(t, clitest.Three(), append([]string{"node"}, strings.Fields(words)...)...), 2, "", says)
	}
	r := clitest.Run(t, story(condemning(stepKey, nil)), "swarm", "ca")
	check(t, r, 0, clitest.PEM([]byte("root")), "ctl: warning: dev02 may be compromised, and what it knew is being replaced (data-key)")
}
