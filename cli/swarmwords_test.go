package cli

import (
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// swarmWords is what a Swarm user's hands know of the commands that there are:
// their flags, a one-letter flag behind its long one. Those of service update are
// made of create's below.
var swarmWords = map[string]string{
	"swarm init": "advertise-addr autolock availability cert-expiry data-path-addr data-path-port default-addr-pool default-addr-pool-mask-length" +
		" dispatcher-heartbeat external-ca force-new-cluster listen-addr max-snapshots snapshot-interval task-history-limit",
	"swarm ca":         "ca-cert ca-key cert-expiry detach/d external-ca quiet/q rotate",
	"swarm join":       "advertise-addr availability data-path-addr listen-addr token",
	"swarm join-token": "quiet/q rotate",
	"swarm leave":      "force/f",
	"swarm update":     "autolock cert-expiry dispatcher-heartbeat external-ca max-snapshots snapshot-interval task-history-limit",
	"swarm unlock":     "",
	"swarm unlock-key": "quiet/q rotate",
	"node demote":      "",
	"node promote":     "",
	"node inspect":     "format/f pretty",
	"node ls":          "filter/f format quiet/q",
	"node ps":          "filter/f format no-resolve no-trunc quiet/q",
	"node rm":          "force/f",
	"node update":      "availability label-add label-rm role",
	"service create":   "config env/e env-file label/l constraint container-label dns dns-option dns-search generic-resource group host mode mount name network placement-pref publish/p secret sysctl ulimit " + both,
	"service update":   "args force image rollback " + both,
	"service inspect":  "format/f pretty",
	"service ls":       "filter/f format quiet/q",
	"service ps":       "filter/f format no-resolve no-trunc quiet/q",
	"service rm":       "",
	"service rollback": "detach/d quiet/q",
	"service scale":    "detach/d",
	"info":             "format/f",
	"version":          "format/f",
}

// both is what service create and service update share.
const both = "cap-add cap-drop credential-spec detach/d endpoint-mode entrypoint health-cmd health-interval health-retries health-start-interval" +
	" health-start-period health-timeout hostname init isolation limit-cpu limit-memory limit-pids log-driver log-opt max-concurrent memory-swap" +
	" memory-swappiness no-healthcheck no-resolve-image oom-score-adj quiet/q read-only replicas replicas-max-per-node reserve-cpu reserve-memory" +
	" restart-condition restart-delay restart-max-attempts restart-window rollback-delay rollback-failure-action rollback-max-failure-ratio" +
	" rollback-monitor rollback-order rollback-parallelism stop-grace-period stop-signal tty/t update-delay update-failure-action" +
	" update-max-failure-ratio update-monitor update-order update-parallelism user/u with-registry-auth workdir/w"

// pairs are what service update adds and takes out.
const pairs = "config constraint container-label dns dns-option dns-search env generic-resource group host label mount network placement-pref" +
	" publish secret sysctl ulimit"

// TestEveryWordOfSwarmIsKnown: a flag of Swarm's is served, or refused in words
// that name it; it is never unknown.
func TestEveryWordOfSwarmIsKnown(t *testing.T) {
	t.Parallel()
	have := map[string][]string{}
	leaves(newApp((&say.Streams{}).Filled()).Commands, nil, func(path string, c *cli.Command) {
		for _, f := range c.Flags {
			have[path] = append(have[path], f.Names()...)
		}
	})
	for path, flags := range swarmWords {
		if path == "service update" {
			for noun := range strings.FieldsSeq(pairs) {
				flags += " " + noun + "-add " + noun + "-rm"
			}
		}
		if have[path] == nil {
			t.Errorf("ctl %s: there is no such command", path)
		}
		for flag := range strings.FieldsSeq(flags) {
			for name := range strings.SplitSeq(flag, "/") {
				if !slices.Contains(have[path], name) {
					t.Errorf("ctl %s: flag %q is not known", path, name)
				}
			}
		}
	}
}

// leaves calls do for every command that does something itself.
func leaves(commands []*cli.Command, path []string, do func(path string, c *cli.Command)) {
	for _, c := range commands {
		at := append(slices.Clone(path), c.Name)
		if len(c.Subcommands) == 0 {
			do(strings.Join(at, " "), c)
		}
		leaves(c.Subcommands, at, do)
	}
}
