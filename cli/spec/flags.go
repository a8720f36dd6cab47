package spec

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

// CreateFlags returns the flags of "service create" that describe the service.
func CreateFlags() []cli.Flag {
	return slices.Concat(commonFlags(), []cli.Flag{
		text("name", "`NAME` of the service (default: one is drawn)"),
		&cli.StringFlag{Name: "mode", Value: "replicated", Usage: "replicated or global"},
		list("env", "`KEY=VALUE` in the environment", "e"),
		list("env-file", "`FILE` of KEY=VALUE lines"),
		list("label", "`KEY=VALUE` on the service", "l"),
		list("container-label", "`KEY=VALUE` on its containers"),
		list("constraint", "`RULE` a node must meet, such as node.labels.zone==a"),
		list("placement-pref", "`spread=LABEL` to spread over"),
		list("mount", "`type=TYPE,source=S,target=T[,readonly]` to mount"),
		list("group", "`GROUP` the process is also in"),
		list("host", "`NAME:ADDRESS` in the hosts file"),
		list("sysctl", "`KEY=VALUE` of the kernel, in the container"),
		list("ulimit", "`NAME=SOFT[:HARD]` for its processes"),
	}, unservedFlags(unservedCreate))
}

// UpdateFlags returns the flags of "service update" that describe the change.
func UpdateFlags() []cli.Flag {
	flags := slices.Concat(withoutDefaults(commonFlags()), []cli.Flag{
		text("image", "`IMAGE` to run"),
		text("args", "`COMMAND` line for the image's entrypoint"),
		&cli.BoolFlag{Name: "force", Usage: "replace every task even if nothing changed"},
		&cli.BoolFlag{Name: "rollback", Usage: "go back to the previous revision"},
	})
	for _, pair := range []struct{ name, add, rm string }{
		{"env", "`KEY=VALUE`", "`KEY`"},
		{"label", "`KEY=VALUE`", "`KEY`"},
		{"container-label", "`KEY=VALUE`", "`KEY`"},
		{"constraint", "`RULE`", "`RULE`"},
		{"placement-pref", "`spread=LABEL`", "`spread=LABEL`"},
		{"mount", "`type=TYPE,source=S,target=T`", "`TARGET`"},
		{"group", "`GROUP`", "`GROUP`"},
		{"host", "`NAME:ADDRESS`", "`NAME[:ADDRESS]`"},
		{"sysctl", "`KEY=VALUE`", "`KEY`"},
		{"ulimit", "`NAME=SOFT[:HARD]`", "`NAME`"},
	} {
		flags = append(flags, list(pair.name+"-add", pair.add+" to add or change"), list(pair.name+"-rm", pair.rm+" to take out"))
	}
	return append(flags, unservedFlags(unservedUpdate)...)
}

// aDefault is what a usage says of a flag that is left out.
var aDefault = regexp.MustCompile(` \(default: [^)]*\)|; default: [^)]*`)

// withoutDefaults takes the defaults out of what help says: an update leaves what
// it does not name as it is.
func withoutDefaults(flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		if t, ok := f.(*cli.StringFlag); ok {
			t.Usage = aDefault.ReplaceAllString(t.Usage, "")
		}
	}
	return flags
}

func commonFlags() []cli.Flag {
	flags := []cli.Flag{
		text("replicas", "`NUMBER` of tasks (default: 1)"),
		text("replicas-max-per-node", "`NUMBER` of tasks that one node may run (0: any)"),
		text("user", "`NAME|UID[:GROUP]` to run as", "u"),
		text("workdir", "`DIR` to start in", "w"),
		text("hostname", "`NAME` the container has"),
		text("entrypoint", "`COMMAND` in place of the image's entrypoint"),
		text("stop-signal", "`SIGNAL` that asks the container to end"),
		text("stop-grace-period", "`TIME` a container gets to end (default: 10s)"),
		text("oom-score-adj", "`NUMBER` from -1000 to 1000"),
		text("limit-cpu", "`NUMBER` of CPUs it may use"),
		text("limit-memory", "`SIZE` of memory it may use"),
		text("limit-pids", "`NUMBER` of processes it may have (0: any)"),
		text("reserve-cpu", "`NUMBER` of CPUs a node must have left"),
		text("reserve-memory", "`SIZE` of memory a node must have left"),
		text("restart-condition", "none, on-failure or any (default: any)"),
		text("restart-delay", "`TIME` before a restart (default: 5s)"),
		text("restart-max-attempts", "`NUMBER` of restarts (0: any)"),
		text("restart-window", "`TIME` over which restarts are counted"),
		list("cap-add", "`CAPABILITY` to have"),
		list("cap-drop", "`CAPABILITY` not to have"),
		&cli.BoolFlag{Name: "read-only", Usage: "make the root file system read-only"},
		&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}, Usage: "give the container a terminal"},
		&cli.BoolFlag{Name: "init", Usage: "run an init that reaps processes"},
		&cli.BoolFlag{Name: "with-registry-auth", Usage: "send the Docker configuration's credentials for the image's registry with it"},
	}
	return slices.Concat(flags, policyFlags("update", "pause, continue or rollback"), policyFlags("rollback", "pause or continue"))
}

func policyFlags(prefix, actions string) []cli.Flag {
	return []cli.Flag{
		text(prefix+"-parallelism", "`NUMBER` of tasks changed at once (0: all; default: 1)"),
		text(prefix+"-delay", "`TIME` between two steps (default: 0s)"),
		text(prefix+"-failure-action", actions+" (default: pause)"),
		text(prefix+"-monitor", "`TIME` a new task is watched for failure (default: 5s)"),
		text(prefix+"-max-failure-ratio", "`SHARE` of tasks that may fail (default: 0)"),
		text(prefix+"-order", "stop-first or start-first (default: stop-first)"),
	}
}

func text(name, usage string, aliases ...string) cli.Flag {
	return &cli.StringFlag{Name: name, Aliases: aliases, Usage: usage}
}

func list(name, usage string, aliases ...string) cli.Flag {
	return &cli.StringSliceFlag{Name: name, Aliases: aliases, Usage: usage, KeepSpace: true}
}

// What Swarm has and Skep does not serve yet, by what it belongs to.
var (
	unservedCreate = map[string][]string{
		"published ports":   {"publish", "p", "endpoint-mode"},
		"networks":          {"network"},
		"secrets":           {"secret"},
		"configs":           {"config"},
		"name servers":      {"dns", "dns-option", "dns-search"},
		"generic resources": {"generic-resource"},
		"health checks":     healthFlags,
		"log drivers":       {"log-driver", "log-opt"},
		"jobs":              {"max-concurrent"},
		"swap limits":       {"memory-swap", "memory-swappiness"},
		"isolation modes":   {"isolation", "credential-spec"},
		"image digests":     {"no-resolve-image"},
	}
	unservedUpdate = map[string][]string{
		"published ports":   {"publish-add", "publish-rm", "endpoint-mode"},
		"networks":          {"network-add", "network-rm"},
		"secrets":           {"secret-add", "secret-rm"},
		"configs":           {"config-add", "config-rm"},
		"name servers":      {"dns-add", "dns-rm", "dns-option-add", "dns-option-rm", "dns-search-add", "dns-search-rm"},
		"generic resources": {"generic-resource-add", "generic-resource-rm"},
		"health checks":     healthFlags,
		"log drivers":       {"log-driver", "log-opt"},
		"jobs":              {"max-concurrent"},
		"swap limits":       {"memory-swap", "memory-swappiness"},
		"isolation modes":   {"isolation", "credential-spec"},
		"image digests":     {"no-resolve-image"},
	}
	healthFlags = []string{"health-cmd", "health-interval", "health-retries", "health-start-interval",
		"health-start-period", "health-timeout", "no-healthcheck"}
	unservedBools = []string{"no-resolve-image", "no-healthcheck"}
)

// unservedFlags returns hidden flags, so that they are read and then refused.
func unservedFlags(table map[string][]string) []cli.Flag {
	var out []cli.Flag
	for _, names := range table {
		for _, n := range names {
			if slices.Contains(unservedBools, n) {
				out = append(out, &cli.BoolFlag{Name: n, Hidden: true})
			} else {
				out = append(out, &cli.StringSliceFlag{Name: n, Hidden: true, KeepSpace: true})
			}
		}
	}
	return out
}

func refuseUnserved(f Flags) error {
	for _, table := range []map[string][]string{unservedCreate, unservedUpdate} {
		for what, names := range table {
			for _, n := range names {
				if f.IsSet(n) {
					return say.Hinted(say.Misuse("--%s: %s are not served by this version", n, what),
						fmt.Sprintf("leave --%s out; the release notes say when it comes", n))
				}
			}
		}
	}
	return nil
}
