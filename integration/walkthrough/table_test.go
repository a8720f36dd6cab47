package walkthrough

import "testing"

func TestColumnsAreFoundByTheirHeaders(t *testing.T) {
	t.Parallel()
	got := parseTable(`ID                          HOSTNAME   STATUS   AVAILABILITY   MANAGER STATUS
z9dj9cobdat235ou65kl0ztr3 * dev01      Ready    Active         Leader
y968agutlsuvzx7mvxpts3n01   dev02      Ready    Active
`)
	row, err := got.one("HOSTNAME", "dev01")
	if err != nil {
		t.Fatal(err)
	}
	if err := cells(row, "ID", "z9dj9cobdat235ou65kl0ztr3 *", "STATUS", "Ready", "MANAGER STATUS", "Leader"); err != nil {
		t.Error(err)
	}
	row, err = got.one("HOSTNAME", "dev02")
	if err != nil {
		t.Fatal(err)
	}
	if err := cells(row, "AVAILABILITY", "Active", "MANAGER STATUS", ""); err != nil {
		t.Error(err)
	}
}

func TestHistoryRowsAreSeen(t *testing.T) {
	t.Parallel()
	got := parseTable(`ID             NAME         IMAGE           NODE    DESIRED STATE   CURRENT STATE           ERROR   PORTS
50qe8lfnxaxk   ping.1       alpine:latest   dev01   Running         Running 6 seconds ago
ky2re9oz86r9    \_ ping.1   alpine:latest   dev02   Shutdown        Failed 8 seconds ago    "x…"
`)
	if n := len(got.where("NAME", `\_ ping.1`)); n != 1 {
		t.Errorf("%d rows of history, want 1: %q", n, got)
	}
	if err := cells(got[1], "CURRENT STATE", "Failed 8 seconds ago", "ERROR", `"x…"`); err != nil {
		t.Error(err)
	}
}
