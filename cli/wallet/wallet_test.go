package wallet

import (
	"crypto/ecdsa"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/ca/issue"
	"github.com/skep-project/skep/internal/id"
	cav1 "github.com/skep-project/skep/proto/skep/ca/v1"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

var began = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// swarm issues certificates of one user.
type swarm struct {
	t    testing.TB
	is   *issue.Issuer
	user ca.UserProfile
}

func newSwarm(t testing.TB) *swarm {
	t.Helper()
	s := &swarm{t: t, user: ca.UserProfile{Cluster: id.New(), User: id.New(), Name: "alice", Lifetime: time.Hour}}
	root, key, err := issue.NewRoot(s.user.Cluster, began)
	if err != nil {
		t.Fatal(err)
	}
	if s.is, err = issue.New([][]byte{root}, key); err != nil {
		t.Fatal(err)
	}
	return s
}

// issue is the next certificate for key.
func (s *swarm) issue(key *ecdsa.PrivateKey) *controlv1.IssuedUser {
	s.t.Helper()
	s.user.Generation++
	csr, err := ca.NewCSR(key)
	if err != nil {
		s.t.Fatal(err)
	}
	pub, err := ca.ParseCSR(csr)
	if err != nil {
		s.t.Fatal(err)
	}
	record, err := s.is.PrepareUser(s.user, pub, began)
	if err != nil {
		s.t.Fatal(err)
	}
	chain, err := s.is.SignUser(s.user, record, csr)
	if err != nil {
		s.t.Fatal(err)
	}
	return &controlv1.IssuedUser{Cluster: s.user.Cluster.Bytes(), Chain: chain, Roots: s.is.Roots().DER(),
		User: &modelv1.User{Name: "alice", Role: modelv1.UserRole_USER_ROLE_ADMIN}, Managers: list(5, 1, "10.0.0.1:2377")}
}

func (s *swarm) context() *Context {
	s.t.Helper()
	key := newKey(s.t)
	c, err := New(s.issue(key), key, began)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ca.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func list(index uint64, history byte, addresses ...string) *cav1.ManagerList {
	l := &cav1.ManagerList{Index: index, History: id.ID{history}.Bytes()}
	for i, a := range addresses {
		l.Managers = append(l.Managers, &cav1.Manager{Node: id.ID{byte(i + 1)}.Bytes(), Address: a, Keys: [][]byte{make([]byte, 32)}})
	}
	return l
}

func said(l *cav1.ManagerList) *controlv1.ListManagersResponse {
	return &controlv1.ListManagersResponse{Managers: l}
}

// open is a store in a directory of its own.
func open(t testing.TB) *Store {
	t.Helper()
	dir := t.TempDir()
	return Open(func(name string) string { return map[string]string{"XDG_CONFIG_HOME": dir, "HOME": "/nowhere"}[name] })
}

func same(t *testing.T, got, want *Context) {
	t.Helper()
	if got.Credential.Identity != want.Credential.Identity || got.Role != want.Role || !got.ListedAt.Equal(want.ListedAt) ||
		got.Last != want.Last || !proto.Equal(got.Managers, want.Managers) || !got.key.Equal(want.key) {
		t.Errorf("it reads as %+v, want %+v", got, want)
	}
}

func TestAContextReadsBackAsItWasWritten(t *testing.T) {
	t.Parallel()
	want := newSwarm(t).context()
	want.Last = "10.0.0.1:2377"
	data, err := want.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
}

func TestABrokenContextIsRefusedWithoutQuotingItsKey(t *testing.T) {
	t.Parallel()
	data, err := newSwarm(t).context().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newSwarm(t).context().Marshal()
	if err != nil {
		t.Fatal(err)
	}
	field := func(data []byte, name string) string {
		_, rest, _ := strings.Cut(string(data), `"`+name+`": "`)
		value, _, _ := strings.Cut(rest, `"`)
		return value
	}
	for name, bad := range map[string]string{
		"nothing":            "",
		"a token":            "SWMTKN-1-x-y",
		"a later format":     strings.Replace(string(data), `"format": 1`, `"format": 2`, 1),
		"another's key":      strings.Replace(string(data), field(data, "key"), field(other, "key"), 1),
		"another's roots":    strings.Replace(string(data), field(data, "roots"), field(other, "roots"), 1),
		"no key":             strings.Replace(string(data), field(data, "key"), "", 1),
		"a key for a cert":   strings.Replace(string(data), field(data, "certificate"), field(data, "key"), 1),
		"half of it":         string(data[:len(data)/2]),
		"a key of 3 bytes":   strings.Replace(string(data), strings.Repeat("00", 32), "000000", 1),
		"more than there is": string(data) + strings.Repeat(" ", MaxBytes),
	} {
		_, err := Parse([]byte(bad))
		if err == nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if strings.Contains(err.Error(), field(data, "key")[40:60]) {
			t.Errorf("%s: the error quotes the key: %v", name, err)
		}
	}
}

func TestAListIsReplacedByANewerOneOnly(t *testing.T) {
	t.Parallel()
	base := newSwarm(t).context() // index 5 of history 1
	for _, tt := range []struct {
		name    string
		list    *cav1.ManagerList
		certain bool
		taken   bool
	}{
		{"a later one", list(6, 1, "b:1"), false, true},
		{"an earlier one", list(4, 1, "b:1"), true, false},
		{"the same index", list(5, 1, "b:1"), true, false},
		{"a later index of the same managers", list(9, 1, "10.0.0.1:2377"), true, false},
		{"another history, out of contact", list(9, 2, "b:1"), false, false},
		{"another history, in contact", list(2, 2, "b:1"), true, true},
		{"nobody", list(9, 1), true, false},
	} {
		next, changed := base.Learn(said(tt.list), "", tt.certain, began.Add(time.Minute))
		if got := next.Managers == tt.list; got != tt.taken || changed != tt.taken || tt.taken != next.ListedAt.After(began) {
			t.Errorf("%s: taken %v, changed %v", tt.name, got, changed)
		}
		if base.Managers.GetIndex() != 5 {
			t.Fatal("the context itself was changed")
		}
	}
	if next, changed := base.Learn(said(list(1, 1, "x:1")), "10.0.0.1:2377", true, began); !changed || next.Last != "10.0.0.1:2377" {
		t.Error("who answered last was not noted")
	}
	// Roots are followed through a rotation, though the managers are the same; not
	// back, and not on the word of one who may be behind.
	next, key := newSwarm(t).is.Roots().DER()[0], base.Credential.Roots.DER()[0]
	both := said(list(6, 1, "10.0.0.1:2377"))
	both.Roots = [][]byte{next, key}
	if got, changed := base.Learn(both, "", true, began); !changed || len(got.Credential.Roots.DER()) != 2 {
		t.Error("the next root was not learnt")
	} else if back, changed := got.Learn(said(list(5, 1, "10.0.0.1:2377")), "", true, began); changed || len(back.Credential.Roots.DER()) != 2 {
		t.Error("an older word on roots was taken")
	}
	if _, changed := base.Learn(both, "", false, began); changed {
		t.Error("the next root was learnt from one out of contact")
	}
	// Roots that do not vouch for the credential are not taken.
	stranger := newSwarm(t)
	resp := said(list(7, 1, "b:1"))
	resp.Roots = stranger.is.Roots().DER()
	if next, _ := base.Learn(resp, "", true, began); next.Credential != base.Credential {
		t.Error("another swarm's roots were taken")
	}
}

func TestTheStoreKeepsContextsForTheirOwnerOnly(t *testing.T) {
	t.Parallel()
	s, want := open(t), newSwarm(t).context()
	if names, err := s.List(); err != nil || len(names) != 0 {
		t.Fatalf("an empty store: %v, %v", names, err)
	}
	if now, err := s.Current(); err != nil || now != Default {
		t.Fatalf("an empty store uses %q, %v", now, err)
	}
	if _, err := os.Stat(s.path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("looking made a directory")
	}
	if err := errors.Join(s.Add("prod", want), s.Add("test", want), s.Use("prod")); err != nil {
		t.Fatal(err)
	}
	if err := s.Add("prod", want); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one of the name: %v", err)
	}
	got, err := s.Get("prod")
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, want)
	if info, err := os.Stat(filepath.Join(s.path, "prod.json")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(s.path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
	names, err := s.List()
	now, cerr := s.Current()
	if !slices.Equal(names, []string{"prod", "test"}) || now != "prod" || err != nil || cerr != nil {
		t.Errorf("it holds %q, %v, and uses %q, %v", names, err, now, cerr)
	}
	if err := s.Remove("prod"); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Current(); now != Default || err != nil {
		t.Errorf("what was in use is gone, and %q is used, %v", now, err)
	}
	for _, err := range []error{s.Remove("prod"), s.Use("prod")} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("one that is gone: %v", err)
		}
	}
}

func TestNamesStayInTheirDirectory(t *testing.T) {
	t.Parallel()
	s := open(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden", "-x", Default, strings.Repeat("a", 101), "a b"} {
		if err := s.Add(name, newSwarm(t).context()); err == nil {
			t.Errorf("%q: taken", name)
		}
	}
}

func TestWhatWasLearntNeverReplacesSomethingNewer(t *testing.T) {
	t.Parallel()
	s, c := open(t), newSwarm(t).context()
	if err := s.Add("prod", c); err != nil {
		t.Fatal(err)
	}
	late, _ := c.Learn(said(list(9, 1, "c:1")), "c:1", true, began)
	early, _ := c.Learn(said(list(7, 1, "b:1")), "b:1", true, began)
	if err := errors.Join(s.Learnt("prod", late), s.Learnt("prod", early)); err != nil { // another command was faster
		t.Fatal(err)
	}
	got, err := s.Get("prod")
	if err != nil || got.Managers.GetIndex() != 9 || got.Last != "b:1" {
		t.Errorf("kept %v, last %q, %v", got.Managers, got.Last, err)
	}
}

func TestARenewalIsFinishedWithTheKeyItBeganWith(t *testing.T) {
	t.Parallel()
	s, w := open(t), newSwarm(t)
	c := w.context()
	if err := s.Add("prod", c); err != nil {
		t.Fatal(err)
	}
	key, err := s.Pending("prod")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.Pending("prod")
	if err != nil || !again.Equal(key) {
		t.Fatalf("the key of a renewal under way changed, %v", err)
	}
	next, err := c.Renewed(w.issue(key), key, began)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Replace("prod", next); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get("prod")
	if err != nil || got.Credential.Identity.Generation != 2 {
		t.Errorf("kept %+v, %v", got, err)
	}
	if fresh, err := s.Pending("prod"); err != nil || fresh.Equal(key) {
		t.Errorf("the next renewal has the same key, %v", err)
	}
	// What an older command learnt does not bring the former certificate back.
	stale, _ := c.Learn(said(list(9, 1, "c:1")), "c:1", true, began)
	if err := s.Learnt("prod", stale); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get("prod"); err != nil || got.Credential.Identity.Generation != 2 {
		t.Errorf("then %+v, %v", got, err)
	}
	stranger := newSwarm(t)
	if _, err := c.Renewed(stranger.issue(key), key, began); err == nil {
		t.Error("another swarm's certificate was taken for the next")
	}
}

func FuzzParse(f *testing.F) {
	c := newSwarm(f).context()
	data, err := c.Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1}`))
	f.Add([]byte(`{"format":1,"managers":{"list":[{"keys":["00"]}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse(data)
		if err != nil {
			return
		}
		out, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Parse(out); err != nil || again.Credential.Identity != c.Credential.Identity || !proto.Equal(again.Managers, c.Managers) {
			t.Errorf("it is written as another: %v", err)
		}
	})
}
