package adversary

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
	"github.com/skep-project/skep/internal/sealed"
	controlv1 "github.com/skep-project/skep/proto/skep/control/v1"
	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// A loot is the secrets that a swarm has, by what they are.
type loot map[string][]byte

// forms are the ways in which a secret may lie about.
func forms(secret []byte) [][]byte {
	out := [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret))), []byte(fmt.Sprintf("%d", secret))}
	for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		// Whatever stands before it.
		for skip := range min(3, len(secret)-12) {
			out = append(out, []byte(e.EncodeToString(secret[skip:len(secret)-(len(secret)-skip)%3])))
		}
	}
	return out
}

// A search looks for all forms of a loot at once.
type search struct {
	begins  [1 << 16]bool // by the first two bytes of a form
	further map[[4]byte][]form
}

type form struct {
	what  string
	bytes []byte
}

func (l loot) search() *search {
	s := &search{further: map[[4]byte][]form{}}
	for what, secret := range l {
		for _, f := range forms(secret) {
			s.begins[binary.LittleEndian.Uint16(f)] = true
			s.further[[4]byte(f)] = append(s.further[[4]byte(f)], form{what, f})
		}
	}
	return s
}

// in returns what of the loot is in data.
func (s *search) in(data []byte) (found []string) {
	for i := range max(0, len(data)-3) {
		if !s.begins[binary.LittleEndian.Uint16(data[i:])] {
			continue
		}
		for _, f := range s.further[[4]byte(data[i:])] {
			if bytes.HasPrefix(data[i:], f.bytes) {
				found = append(found, f.what)
			}
		}
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// addKey adds a private key: its bytes, as PKCS#8 and as PEM spells them, and the
// number alone.
func (l loot) addKey(t *testing.T, what string, pkcs8 []byte) {
	t.Helper()
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		t.Fatal(err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		t.Fatalf("%s is a %T", what, parsed)
	}
	number, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	l[what+" in PKCS#8"], l[what+", the number"], l[what+" in PEM"] = pkcs8, number, bytes.Split(text, []byte("\n"))[1]
}

func (l loot) addToken(t *testing.T, what, text string) {
	t.Helper()
	token, err := ca.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	l[what] = token.Secret.Reveal()
	l[what+" as it is spelt"] = []byte(id.ID(token.Secret.Reveal()).String())
}

// managersOnly are the secrets that only managers may know.
func (s *swarm) managersOnly(t *testing.T) loot {
	t.Helper()
	l := loot{}
	l.addKey(t, "the root's key", s.root.key.Reveal())
	l.addKey(t, "the former root's key", s.former.key.Reveal())
	unlock, err := sealed.ParseUnlockKey(s.unlock)
	if err != nil {
		t.Fatal(err)
	}
	l["the unlock key"], l["the unlock key as it is typed"] = unlock.Reveal(), s.unlock.Reveal()
	resp, err := s.managers[0].control().GetJoinToken(within(t, soon), &controlv1.GetJoinTokenRequest{Role: asManager})
	if err != nil {
		t.Fatal(err)
	}
	l.addToken(t, "the managers' join token", resp.GetToken())
	keys, _ := s.managers[0].copyKeys(t)
	ring, err := keys.LoadRing()
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range ring.GetKeys() {
		l[fmt.Sprintf("data key %d", k.GetId())] = k.GetKey()
	}
	return l
}

// everything is what a test can make a swarm keep secret.
func (s *swarm) everything(t *testing.T) loot {
	t.Helper()
	l := s.managersOnly(t)
	worker, err := s.managers[0].control().GetJoinToken(within(t, soon), &controlv1.GetJoinTokenRequest{Role: asWorker})
	if err != nil {
		t.Fatal(err)
	}
	l.addToken(t, "the workers' join token", worker.GetToken())
	made, _ := s.token(t, &controlv1.CreateTokenRequest{})
	l.addToken(t, "a made token", made)
	if _, err := enroll(t, nobody("127.0.0.21").conn(t, s.managers[1]), made, csrOf(t, newKey(t))); err != nil {
		t.Fatal(err)
	}
	for _, h := range append(slices.Clone(s.managers), s.worker) {
		_, me := h.copyKeys(t)
		pkcs8, err := x509.MarshalPKCS8PrivateKey(me.Key)
		if err != nil {
			t.Fatal(err)
		}
		l.addKey(t, "the key of "+h.name, pkcs8)
	}
	l["a service's environment"], l["a registry's password"] = []byte("a-word-in-the-environment"), []byte("a-word-for-the-registry")
	req := &controlv1.CreateServiceRequest{
		RequestId: requestID(), Spec: &modelv1.ServiceSpec{Name: "keeper", Mode: &modelv1.ServiceSpec_Global{Global: &modelv1.Global{}}},
		Template:     &modelv1.TaskTemplate{Container: &modelv1.ContainerSpec{Image: "registry.example.com/app", Env: []string{"WORD=a-word-in-the-environment"}}},
		RegistryAuth: &modelv1.RegistryAuth{Registry: "registry.example.com", Username: "robot", Password: []byte("a-word-for-the-registry")},
	}
	if _, err := s.managers[0].control().CreateService(within(t, soon), req); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, _ = s.managers[0].control().RemoveService(within(t, soon), &controlv1.RemoveServiceRequest{RequestId: requestID(), Ref: "keeper"}) // the next test has no use for it
	})
	for _, h := range append(slices.Clone(s.managers), s.worker) {
		if err := until(h.name+" being given the work", func() error {
			resp, err := s.managers[0].control().ListTasks(within(t, soon), &controlv1.ListTasksRequest{})
			if err == nil && !slices.ContainsFunc(resp.GetTasks(), func(v *controlv1.TaskView) bool { return v.GetNodeName() == h.name }) {
				err = fmt.Errorf("there are %d tasks", len(resp.GetTasks()))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	return l
}

// written is every file that the daemons wrote, and what is in it.
func (s *swarm) written(t *testing.T) iter.Seq2[string, []byte] {
	t.Helper()
	return func(yield func(string, []byte) bool) {
		for _, dir := range []string{s.dir, s.run} {
			if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
				if err != nil || !d.Type().IsRegular() {
					return err
				}
				data, err := os.ReadFile(path)
				if err != nil {
					return nil // it was replaced meanwhile
				}
				if !yield(path, bytes.TrimRight(data, "\x00")) { // a log's room is made before it is used
					return fs.SkipAll
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestSecretsLyingAbout: every file that the daemons wrote, their logs at the debug
// level, the arguments and the environment of every process, and all that a trail and
// an info tell are searched for every secret that this swarm has.
func TestSecretsLyingAbout(t *testing.T) {
	s := attacked(t)
	l := s.everything(t).search()
	files := 0
	look := func(path string, data []byte) {
		files++
		for _, what := range l.in(data) {
			t.Errorf("%s is in %s", what, path)
		}
	}
	for path, data := range s.written(t) {
		look(path, data)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 && strings.Contains(path, "/keys/") {
			t.Errorf("%s may be read by others: %v", path, info.Mode())
		}
	}
	if files < 4*8 {
		t.Errorf("only %d files were searched", files)
	}
	for _, pattern := range []string{"/proc/[0-9]*/cmdline", "/proc/[0-9]*/environ"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			if data, err := os.ReadFile(path); err == nil { // else the process has gone
				look(path, data)
			}
		}
	}
	for _, args := range [][]string{{"info", "--format", "json"}, {"node", "ls", "--format", "json"}, {"service", "inspect", "keeper"}, {"swarm", "token", "ls", "--format", "json"}, {"audit", "ls"}, {"events", "--since", "1h", "--until", "0s"}} {
		out, err := s.managers[0].ctl(args...)
		if err != nil {
			t.Error(err)
		}
		found := l.in([]byte(out))
		if args[0] == "service" {
			// Whoever may look at services sees this, as the threat model says.
			const env = "a service's environment"
			if !slices.Contains(found, env) {
				t.Error("the search does not find what is there")
			}
			found = slices.DeleteFunc(found, func(what string) bool { return what == env })
		}
		for _, what := range found {
			t.Errorf("ctl %s shows %s", strings.Join(args, " "), what)
		}
	}
}

// TestAWorkersMemoryIsSearched: who takes a worker over has what its process knows.
// Nothing of it is the managers'.
func TestAWorkersMemoryIsSearched(t *testing.T) {
	s := attacked(t)
	l := s.managersOnly(t).search()
	found, err := l.inMemory(s.managers[0].pid())
	if os.IsPermission(err) {
		t.Skip("this user may not look into processes")
	}
	if err != nil || len(found) == 0 {
		t.Fatalf("in a manager's memory %d of its secrets are found, %v: the search is worth nothing", len(found), err)
	}
	found, err = l.inMemory(s.worker.pid())
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range found {
		t.Errorf("a worker's memory holds %s", what)
	}
}

// inMemory returns what is in the memory of a process.
func (s *search) inMemory(pid int) ([]string, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, err
	}
	defer mem.Close()
	var found []string
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var how string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &how); err != nil || !strings.HasPrefix(how, "rw") || to-from > 1<<30 {
			continue
		}
		data := make([]byte, to-from)
		n, err := mem.ReadAt(data, from)
		if err != nil && n == 0 {
			continue // the kernel's own, or gone
		}
		found = append(found, s.in(data[:n])...)
	}
	slices.Sort(found)
	return slices.Compact(found), nil
}

// TestACrashLeavesACore: a daemon dies as Go programs can be made to, with its memory
// written down. There is no core of it, for nobody to find.
func TestACrashLeavesACore(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a daemon")
	}
	dir, err := os.MkdirTemp("", "skep") // short: a socket's path has 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const cores = "ulimit -c unlimited 2>/dev/null; "
	start := func(script string) *exec.Cmd {
		cmd := exec.Command("sh", "-c", cores+script)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOTRACEBACK=crash")
		if err := bear(cmd); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	dumped := func(cmd *exec.Cmd) bool {
		_ = cmd.Wait() // how it died is what is looked at
		status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if !ok || !status.Signaled() {
			t.Fatalf("%v ended with %v, want killed by a signal", cmd.Args, cmd.ProcessState)
		}
		return status.CoreDump()
	}
	if !dumped(start("kill -ABRT $$")) {
		t.Skip("this kernel writes no cores here")
	}
	daemon := start(fmt.Sprintf("exec ctl daemon --state-dir %[1]s/s --run-dir %[1]s/r --hostname crash --containerd %[1]s/none.sock", dir))
	err = until("the daemon", func() error { _, err := os.Stat(filepath.Join(dir, "r", "ctl.sock")); return err })
	if err == nil {
		err = daemon.Process.Signal(syscall.SIGQUIT)
	}
	if err != nil {
		_ = daemon.Process.Kill()
		t.Fatal(err)
	}
	if dumped(daemon) {
		t.Error("there is a core of a daemon")
	}
}
