package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/skep-project/skep/cli/clitest"
)

func TestRolesAreReadable(t *testing.T) {
	t.Parallel()
	r := clitest.Run(t, nil, "role", "ls", "-q")
	check(t, r, 0, "viewer\nrotator\noperator\nadmin\n")
	r = clitest.Run(t, nil, "role", "inspect", "rotator", "admin")
	var got []struct {
		Name  string
		Deeds []struct{ May, Method, Limit string }
	}
	if err := json.Unmarshal([]byte(r.Out), &got); err != nil || len(got) != 2 {
		t.Fatalf("exit %d, %v: %s", r.Code, err, r.Out)
	}
	var may []string
	for _, d := range got[0].Deeds {
		may = append(may, d.Method)
		if d.Method == "RotateRoot" && !strings.Contains(d.Limit, "only to a root that the swarm makes") {
			t.Errorf("the limit of a rotator's rotation is %q", d.Limit)
		}
	}
	if words := strings.Join(may, " "); words != "ListManagers RenewUser RotateJoinToken RotateRoot RotateUnlockKey GetRoot GetUnlockKey WatchRoot" {
		t.Errorf("a rotator may %s", words)
	}
	for _, d := range got[1].Deeds {
		if d.Limit != "" {
			t.Errorf("an admin is kept from %s: %s", d.Method, d.Limit)
		}
	}
	check(t, clitest.Run(t, nil, "role", "inspect", "--pretty", "viewer"), 0, "Name:                   viewer\nFor:                    looks at everything but tokens, keys and users\nMay:\n list tasks\n list the managers\n")
	check(t, clitest.Run(t, nil, "role", "inspect", "king"), 1, "", `ctl: there is no role "king"`, "there are viewer, rotator, operator, admin")
	check(t, clitest.Run(t, nil, "role", "inspect"), 2, "", "role inspect: no role given")
}
