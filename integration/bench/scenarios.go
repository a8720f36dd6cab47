package main

import "context"

// none is a figure that is told and held to nothing.
var none target

// scenarios are all there are, each with the figures it must give and their
// targets. One that is slow is not run unless it is named.
var scenarios = []scenario{
	{name: "deploy", managers: 1, agents: 100, replicas: 10_000, kind: lightAgents, on: managers, play: deploy, rows: figures(usedBy("task"), map[string]target{
		"all running": atMost(0.5), "manager CPU a task": atMost(60), "live heap a task": none, "scaled to 0": atMost(0.5)})},
	{name: "deploy", managers: 3, agents: 100, replicas: 10_000, kind: lightAgents, on: managers, play: deploy, rows: figures(usedBy("task"), map[string]target{
		"all running": atMost(1), "manager CPU a task": atMost(150), "live heap a task": none, "scaled to 0": none})},
	{name: "deploy", managers: 1, agents: 1000, replicas: 10_000, kind: lightAgents, on: managers, play: deploy, base: "deploy 1m 100 light ×10000", rows: figures(usedBy("task"), map[string]target{
		"all running": none, "live heap a task": none, "scaled to 0": none,
		"all running, against base": atMost(1.5), "manager CPU a task, against base": none})},
	{name: "deploy-large", managers: 1, agents: 200, replicas: 100_000, kind: lightAgents, on: managers, play: deploy, base: "deploy 1m 100 light ×10000", rows: figures(usedBy("task"), map[string]target{
		"all running": atMost(6), "live heap a task": atMost(600), "scaled to 0": none,
		"all running, against base": none, "manager CPU a task, against base": atMost(1.3)})},
	{name: "deploy-million", managers: 1, agents: 10_000, replicas: 1_000_000, kind: lightAgents, on: managers, slow: true, play: curve, rows: map[string]target{
		"all running": atMost(90), "manager's peak RSS": atMost(2560), "live heap a task": none}},
	{name: "roll", managers: 1, agents: 100, replicas: 1000, kind: lightAgents, on: managers, play: roll, rows: figures(usedBy("task"), map[string]target{
		"rolled": atMost(0.8), "written a task": atMost(400)})},
	{name: "roll", managers: 1, agents: 100, replicas: 1000, kind: realAgents, on: managers, play: roll, rows: figures(usedBy("task"), map[string]target{
		"rolled": atMost(2), "written a task": atMost(400)})},
	{name: "one", managers: 3, agents: 3, replicas: 1, kind: lightAgents, on: managers, play: one, rows: map[string]target{
		"created to running": atMost(15)}},
	{name: "store", managers: 1, on: replicas, play: transactions, rows: storeRows(
		atLeast(12_000), atMost(5), none)},
	{name: "store", managers: 3, on: replicas, play: transactions, rows: storeRows(
		atLeast(4000), atMost(15), atMost(1.2))},
	{name: "api", managers: 1, on: managers, play: api, rows: figures(usedBy("service"), map[string]target{
		"services created": atLeast(8000)})},
	{name: "api", managers: 3, on: managers, play: api, rows: figures(usedBy("service"), map[string]target{
		"services created": atLeast(2000)})},
	{name: "join", managers: 1, agents: 100, kind: lightAgents, on: managers, late: true, play: joining, rows: figures(usedBy("join"), map[string]target{
		"all ready": none, "manager CPU a join": atMost(2500)})},
	{name: "renew", managers: 1, agents: 1000, kind: lightAgents, on: managers, late: true, play: renewing, rows: figures(usedBy("certificate"), map[string]target{
		"certificates renewed": atLeast(2000)})},
	{name: "idle", managers: 1, agents: 1000, kind: lightAgents, on: managers, play: idle, rows: map[string]target{
		"manager's core": atMost(1.5), "core of a manager alone": none, "core of a bare TLS echo of as many beats": none,
		"RSS an agent": atMost(60), "heap and stacks an agent": none, "goroutines an agent": none}},
	{name: "failover", managers: 3, agents: 100, kind: lightAgents, on: managers, play: failover, rows: map[string]target{
		"next write": atMost(0.3), "worst next write": atMost(1), "agents ready again": atMost(3), "agents counted again": atMost(3)}},
	{name: "revoke", managers: 3, agents: 20, kind: lightAgents, on: managers, late: true, play: revoke, rows: figures(
		figures(revocationRows(nodeRm, callsRefused, streamsCut), revocationRows(nodeRevoke, callsRefused, streamsCut)),
		figures(revocationRows(userRm, callsRefused, streamsCut), revocationRows(nodeDemote, callsRefused, readsRefused, raftRefused, streamsCut)))},
	{name: "flood", managers: 1, agents: 100, kind: lightAgents, on: managers, play: flood, rows: map[string]target{
		"bad joins": none, "managers' core": none, "log entries a 1000 bad joins": atMost(1),
		"beat p50, quiet": none, "beat p50, flooded": none, "beat p50, flooded against quiet": atMost(1.5),
		"beat p99, quiet": none, "beat p99, flooded": none, "beat p99, flooded against quiet": atMost(2)}},
	{name: "dark", managers: 3, agents: 2, kind: labHosts, on: hosts, play: dark, rows: map[string]target{
		"leader dark: next write": atMost(1), "worst leader dark: next write": atMost(2.5),
		"host dark: replaced": atMost(12), "host goes down: replaced": atMost(2)}},
	{name: "containers", managers: 1, agents: 2, replicas: 100, kind: labHosts, on: hosts, play: containers, rows: map[string]target{
		"all running": none, "containerd's own client": none, "against containerd's own client": atMost(1.3), "scaled to 0": none}},
}

// What agents are: light ones speak the session's whole protocol and do no work;
// real ones are the whole agent over a runtime that does all at once; hosts are
// daemons on lab hosts.
const (
	lightAgents = "light"
	realAgents  = "real"
	labHosts    = "lab hosts"
)

// figures adds the rows of a scenario to those that come with what it measures.
func figures(common, own map[string]target) map[string]target {
	for metric, t := range own {
		common[metric] = t
	}
	return common
}

// usedBy are the rows that stage.used notes for each of so many things.
func usedBy(thing string) map[string]target {
	return map[string]target{"manager CPU a " + thing: none, "written a " + thing: none, "manager's peak RSS": none}
}

func storeRows(many, wait, alone target) map[string]target {
	return map[string]target{
		"transactions, 64 writers": many, "p50, 64 writers": wait, "p99, 64 writers": none,
		"transactions, 1 writer": none, "p50, 1 writer": alone, "p99, 1 writer": none,
		"CPU a transaction, 64 writers": none,
	}
}

// A ground is what a scenario is played on.
type ground func(context.Context, scenario, options, *book) (*stage, error)
