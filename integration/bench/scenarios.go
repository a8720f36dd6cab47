package main

// scenarios are all there are, each with the targets of its figures. Those of
// the largest fleets are not run unless they are named.
var scenarios = []scenario{
	{name: "deploy", managers: 1, agents: 100, replicas: 10_000, kind: "light", play: deploy, targets: map[string]target{
		"all running": atMost(0.5), "manager CPU a task": atMost(60), "scaled to 0": atMost(0.5)}},
	{name: "deploy", managers: 3, agents: 100, replicas: 10_000, kind: "light", play: deploy, targets: map[string]target{
		"all running": atMost(1), "manager CPU a task": atMost(150)}},
	{name: "deploy", managers: 1, agents: 1000, replicas: 10_000, kind: "light", play: deploy, targets: map[string]target{
		"all running": atMost(0.75)}},
	{name: "deploy-large", managers: 1, agents: 200, replicas: 100_000, kind: "light", play: deploy, targets: map[string]target{
		"all running": atMost(6), "live heap a task": atMost(600)}},
	{name: "roll", managers: 1, agents: 100, replicas: 1000, kind: "light", play: roll, targets: map[string]target{
		"rolled": atMost(0.8), "written a task": atMost(400)}},
	{name: "roll", managers: 1, agents: 100, replicas: 1000, kind: "real", play: roll, targets: map[string]target{
		"rolled": atMost(2), "written a task": atMost(400)}},
	{name: "one", managers: 3, agents: 3, replicas: 1, kind: "light", play: one, targets: map[string]target{
		"created to running": atMost(15)}},
	{name: "api", managers: 1, kind: "light", play: api, targets: map[string]target{
		"services created": atLeast(8000)}},
	{name: "api", managers: 3, kind: "light", play: api, targets: map[string]target{
		"services created": atLeast(2000)}},
	{name: "join", managers: 1, agents: 100, kind: "light", play: joining, targets: map[string]target{
		"manager CPU a join": atMost(2500)}},
	{name: "renew", managers: 1, agents: 1000, kind: "light", play: renewing, targets: map[string]target{
		"certificates renewed": atLeast(2000)}},
	{name: "idle", managers: 1, agents: 1000, kind: "light", play: idle, targets: map[string]target{
		"manager's core": atMost(1.5), "RSS an agent": atMost(60)}},
	{name: "failover", managers: 3, agents: 100, kind: "light", play: failover, targets: map[string]target{
		"next write": atMost(0.3), "worst next write": atMost(1), "agents ready again": atMost(3)}},
}
