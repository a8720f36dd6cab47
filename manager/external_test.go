package manager

import (
	"testing"
	"time"

	"github.com/skep-project/skep/ca/external"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// TestHealthIsToldWhenItTurns and else once an hour: it is an entry of the log.
func TestHealthIsToldWhenItTurns(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	root := &modelv1.RootCA{External: []*modelv1.ExternalCA{{Url: "one"}, {Url: "two"}}}
	seen := map[string]external.Health{}
	tell := func() bool {
		next, news := health(root, func(url string) external.Health { return seen[url] }, now)
		if news {
			root.ExternalHealth = next
		}
		return news
	}
	if tell() {
		t.Error("what was not asked is news")
	}
	seen["one"] = external.Health{Answered: now}
	if !tell() || tell() || len(root.GetExternalHealth()) != 1 || root.GetExternalHealth()[0].GetSince() != now.UnixNano() {
		t.Errorf("the first answer is told as %v", root.GetExternalHealth())
	}
	begin := now
	for range 3 {
		now = now.Add(25 * time.Minute)
		seen["one"] = external.Health{Answered: now}
		if told := tell(); told != (now.Sub(begin) == 75*time.Minute) {
			t.Errorf("after %v: told %v", now.Sub(begin), told)
		}
	}
	if h := root.GetExternalHealth()[0]; h.GetSince() != begin.UnixNano() || h.GetAnsweredAt() != now.UnixNano() {
		t.Errorf("it answers %v", h)
	}
	seen["one"] = external.Health{Answered: now, Failed: now.Add(time.Second), Err: "refused"}
	now = now.Add(time.Minute)
	if !tell() || tell() || !root.GetExternalHealth()[0].GetFailing() || root.GetExternalHealth()[0].GetError() != "refused" || root.GetExternalHealth()[0].GetSince() != now.UnixNano() {
		t.Errorf("the failure is told as %v", root.GetExternalHealth())
	}
	// A new leader has asked nobody, and changes nothing.
	clear(seen)
	if tell() {
		t.Error("what another leader saw was forgotten")
	}
	root.External = root.GetExternal()[1:]
	if !tell() || len(root.GetExternalHealth()) != 0 {
		t.Errorf("of those that are not asked any more: %v", root.GetExternalHealth())
	}
}
