package swarm

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/cli/say"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Bounds of the settings: below them a swarm cannot work.
const (
	minHeartbeat     = 100 * time.Millisecond
	minTokenRotation = 10 * time.Minute
	minDeadManager   = time.Minute // a daemon that restarts is back by then
	leaseBeats       = 5           // a lease lasts this many heartbeats, as the defaults do
	leastBeats       = 3           // and never fewer
)

// A setting is one part of the cluster's spec, which init and update set by the
// same flag.
type setting struct {
	name, usage string
	// fallback is what holds if nothing is said at init.
	fallback string
	// set reads the flag's value into the spec.
	set func(spec *modelv1.ClusterSpec, text string) error
}

// settings are in the order in which they are set: a lease after the heartbeat
// that it would follow otherwise.
var settings = []setting{
	{"cert-expiry", "`TIME` a worker's certificate lives, 10m or more", "2160h, which is 90 days", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.CertExpiry, err = duration(text, ca.MinExpiry, 0)
		return err
	}},
	{"manager-cert-expiry", "`TIME` a manager's certificate lives, 10m or more", "168h, which is 7 days", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.ManagerCertExpiry, err = duration(text, ca.MinExpiry, 0)
		return err
	}},
	{"expired-renewal", "auto, approve or never: how a node comes back whose certificate has ended", "auto", func(s *modelv1.ClusterSpec, text string) error {
		mode, ok := modelv1.ExpiredRenewal_value["EXPIRED_RENEWAL_"+strings.ToUpper(text)]
		s.ExpiredRenewal = modelv1.ExpiredRenewal(mode)
		return want(ok && mode != 0, "auto, approve or never")
	}},
	{"expired-grace", "`TIME` after the end of its certificate in which a node may renew it", "720h, which is 30 days", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.ExpiredGrace, err = duration(text, time.Minute, 0)
		return err
	}},
	{"dispatcher-heartbeat", "`TIME` between two beats of a node; the lease becomes five of it", "2s", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.HeartbeatPeriod, err = duration(text, minHeartbeat, time.Hour)
		s.Lease = leaseBeats * s.HeartbeatPeriod
		return err
	}},
	{"lease", "`TIME` a node counts as alive after its last beat", "10s", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.Lease, err = duration(text, leastBeats*minHeartbeat, 0)
		return err
	}},
	{"mass-loss-guard", "on or off: wait one more lease when most nodes vanish at once", "on", func(s *modelv1.ClusterSpec, text string) error {
		s.MassExpiryGuardOff = text == "off"
		return want(text == "on" || text == "off", "on or off")
	}},
	{"dead-manager-removal", "`TIME` a manager may be unreachable before it is made a worker, if three managers or more remain (off: for ever)", "off",
		func(s *modelv1.ClusterSpec, text string) (err error) {
			if text == "off" {
				text = "0s"
			}
			if s.DeadManagerRemoval, err = duration(text, 0, 0); err != nil {
				return err
			}
			return want(s.DeadManagerRemoval == 0 || s.DeadManagerRemoval >= int64(minDeadManager), "at least "+minDeadManager.String()+", or off")
		}},
	{"token-rotation", "`TIME` after which the standing join tokens are rotated; the former ones work for an hour more (off: never)", "off",
		func(s *modelv1.ClusterSpec, text string) (err error) {
			if text == "off" {
				text = "0s"
			}
			if s.TokenRotation, err = duration(text, 0, 0); err != nil {
				return err
			}
			return want(s.TokenRotation == 0 || s.TokenRotation >= int64(minTokenRotation), "at least "+minTokenRotation.String()+", or off")
		}},
	{"standing-tokens", "on or off: have join tokens that work until they are rotated", "on", func(s *modelv1.ClusterSpec, text string) error {
		s.NoStandingTokens = text == "off"
		return want(text == "on" || text == "off", "on or off")
	}},
	{"task-history-limit", "`NUMBER` of tasks kept for each slot (negative: all)", "5", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.TaskHistory, err = strconv.ParseInt(text, 10, 32)
		return want(err == nil && s.GetTaskHistory() != 0, "a whole number from 1 up, or a negative one for all")
	}},
	{"snapshot-interval", "`NUMBER` of log entries between snapshots", "10000", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.SnapshotInterval, err = strconv.ParseUint(text, 10, 32)
		return want(err == nil && s.GetSnapshotInterval() > 0, "a whole number from 1 up")
	}},
	{"max-snapshots", "`NUMBER` of older snapshots kept", "0", func(s *modelv1.ClusterSpec, text string) (err error) {
		s.OldSnapshots, err = strconv.ParseUint(text, 10, 16)
		return want(err == nil, "a whole number from 0 up")
	}},
}

// duration reads a time of at least low, and at most high if that is not 0.
func duration(text string, low, high time.Duration) (int64, error) {
	d, err := time.ParseDuration(text)
	switch {
	case err != nil || d < 0:
		return 0, want(false, `a duration such as "90s" or "24h"`)
	case high > 0:
		return int64(d), want(d >= low && d <= high, fmt.Sprintf("%v to %v", low, high))
	}
	return int64(d), want(d >= low, fmt.Sprintf("at least %v", low))
}

// want returns nil if ok, else the error of a value that should be what.
func want(ok bool, what string) error {
	if ok {
		return nil
	}
	return fmt.Errorf("want %s", what)
}

// settingFlags are the flags of the settings, with their defaults or without: an
// update leaves what it does not name as it is.
func settingFlags(defaults bool) []cli.Flag {
	var flags []cli.Flag
	for _, s := range settings {
		f := &cli.StringFlag{Name: s.name, Usage: s.usage}
		if defaults {
			f.DefaultText = s.fallback
		}
		flags = append(flags, f)
	}
	return append(flags, &cli.BoolFlag{Name: "autolock", Usage: "have managers start locked, until they are given the unlock key"})
}

// set reads the settings that were given into spec. It reports whether any was.
func set(c *cli.Context, spec *modelv1.ClusterSpec) (given bool, err error) {
	for _, s := range settings {
		if !c.IsSet(s.name) {
			continue
		}
		given = true
		if err := s.set(spec, c.String(s.name)); err != nil {
			return given, say.Misuse("--%s %q: %v", s.name, c.String(s.name), err)
		}
	}
	if c.IsSet("autolock") {
		given, spec.Autolock = true, c.Bool("autolock")
	}
	return given, nil
}

// checkPulse refuses a lease that a node would often miss.
func checkPulse(spec *modelv1.ClusterSpec) error {
	beat, lease := cmp.Or(time.Duration(spec.GetHeartbeatPeriod()), 2*time.Second), cmp.Or(time.Duration(spec.GetLease()), 10*time.Second)
	if lease < leastBeats*beat {
		return say.Misuse("--lease %v: want at least %d heartbeats of %v", lease, leastBeats, beat)
	}
	return nil
}
