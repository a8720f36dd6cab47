package cli

import (
	"fmt"
	"time"

	localv1 "github.com/skep-project/skep/proto/skep/local/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// keysAtRest says what a manager's keys are worth on its disk; nothing of a worker,
// which holds no key of the swarm.
func keysAtRest(l *localv1.InfoResponse) string {
	sealed := fmt.Sprintf("sealed under unlock key %d since %s", l.GetLockNumber(), time.Unix(0, l.GetLockSince()).Format("2006-01-02 15:04:05"))
	switch {
	case l.GetState() == localv1.State_STATE_LOCKED:
		return sealed + `; waiting for "ctl swarm unlock"`
	case l.GetLockNumber() > 0:
		return sealed
	case l.GetState() == localv1.State_STATE_ACTIVE && l.GetRole() == modelv1.Role_ROLE_MANAGER:
		return "not protected: whoever can read this disk, or a copy of it, has the swarm's keys"
	}
	return ""
}

// rotation says why the data key is being replaced and how far that is; empty
// while it is not.
func rotation(c *modelv1.Cluster) string {
	d := c.GetDataKey()
	active, reason := max(1, d.GetActive()), d.GetReason()
	if reason != "" {
		reason = ", because " + reason
	}
	switch {
	case d.GetOffered() > 0:
		return fmt.Sprintf("key %d is being given to the managers%s", d.GetOffered(), reason)
	case active <= d.GetStale():
		return fmt.Sprintf("key %d is to be replaced%s", active, reason)
	}
	behind := 0
	for _, h := range c.GetKeyHolders() {
		if h.GetClean() < active {
			behind++
		}
	}
	if behind == 0 || active == 1 {
		return ""
	}
	return fmt.Sprintf("key %d is in use; managers that still have an older one: %d", active, behind)
}
