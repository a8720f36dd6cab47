package adversary

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skep-project/skep/ca"
	"github.com/skep-project/skep/internal/id"
)

// TestOpenSSL: another implementation of TLS accepts of managers what it should, is
// accepted with a certificate that was issued, and refuses and is refused else.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getuid() == 0 { // "make deps" has installed it
			t.Fatal(err)
		}
		t.Skip("openssl is not there")
	}
	s := attacked(t)
	dir, m := t.TempDir(), s.managers[1]
	keep := func(name, kind string, ders ...[]byte) string {
		var text []byte
		for _, der := range ders {
			text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})...)
		}
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	shown, err := m.ctl("swarm", "ca")
	if err != nil {
		t.Fatal(err)
	}
	printed := filepath.Join(dir, "printed.pem")
	if err := os.WriteFile(printed, []byte(shown), 0o600); err != nil {
		t.Fatal(err)
	}
	forged, _ := impostor(t, parse(t, s.root.der))
	another := keep("another.pem", "CERTIFICATE", forged.Raw)
	former := keep("former.pem", "CERTIFICATE", s.former.der)

	// client runs s_client until the manager has spoken or hung up.
	client := func(args ...string) (text string, spoke bool) {
		t.Helper()
		cmd := exec.Command("openssl", append([]string{"s_client", "-connect", m.addr, "-alpn", "h2", "-ign_eof", "-verify_return_error"}, args...)...)
		out := &spoken{heard: make(chan struct{})}
		cmd.Stdout, cmd.Stderr = out, out
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-out.heard:
			_ = cmd.Process.Kill() // it would stay until the manager gives up
			<-ended
			return out.text(), true
		case <-ended:
		case <-time.After(soon):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("s_client %s does not end: %s", strings.Join(args, " "), out.text())
		}
		return out.text(), false
	}
	worker, _ := s.enrolled(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(worker.key)
	if err != nil {
		t.Fatal(err)
	}
	key, cert := keep("worker.key", "PRIVATE KEY", pkcs8), keep("worker.pem", "CERTIFICATE", worker.chain[0])
	alien := s.root.forge(t, ca.Profile{Cluster: id.New(), Node: id.New(), Role: asWorker, Generation: 1})
	alienKey, err := x509.MarshalPKCS8PrivateKey(alien.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what string
		args []string
		let  bool
		says string
	}{
		{"it trusts the root that ctl prints", []string{"-CAfile", printed}, true, "Verification: OK"},
		{"it trusts the root of before the last rotation", []string{"-CAfile", former}, true, "Verification: OK"},
		{"it trusts another root of that name", []string{"-CAfile", another}, false, "verify error"},
		{"it shows a worker's certificate", []string{"-CAfile", printed, "-cert", cert, "-key", key}, true, "Verification: OK"},
		{"it shows one of another cluster", []string{"-CAfile", printed, "-cert", keep("alien.pem", "CERTIFICATE", alien.chain[0]), "-key", keep("alien.key", "PRIVATE KEY", alienKey)}, false, "alert bad certificate"},
		{"it speaks TLS 1.2", []string{"-CAfile", printed, "-tls1_2"}, false, "alert protocol version"},
	} {
		text, let := client(tt.args...)
		if let != tt.let || !strings.Contains(text, tt.says) {
			t.Errorf("%s: let in %v, want %v, and %q in %s", tt.what, let, tt.let, tt.says, text)
		}
	}
	// The leaves themselves, with what they bring along.
	for root, ok := range map[string]bool{printed: true, former: true, another: false} {
		out, err := exec.Command("openssl", "verify", "-CAfile", root, "-untrusted", keep("chain.pem", "CERTIFICATE", worker.chain...), cert).CombinedOutput()
		if (err == nil) != ok {
			t.Errorf("openssl verify with %s: %v, %s, want ok %v", filepath.Base(root), err, out, ok)
		}
	}
}

// spoken is what s_client prints; the first frame of HTTP/2 in it is the manager's word.
type spoken struct {
	buf   bytes.Buffer // os/exec writes both outputs by one goroutine, as they are equal
	heard chan struct{}
	once  bool
}

func (s *spoken) Write(p []byte) (int, error) {
	s.buf.Write(p)
	// SETTINGS: type 4, no flags, stream 0.
	if !s.once && bytes.Contains(s.buf.Bytes(), []byte{4, 0, 0, 0, 0, 0}) {
		s.once = true
		close(s.heard)
	}
	return len(p), nil
}

func (s *spoken) text() string { return s.buf.String() }
