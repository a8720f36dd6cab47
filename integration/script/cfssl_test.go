package script

import (
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/skep-project/skep/ca/issue/cfssltest"
)

// cfssl NAME: the real cfssl's handlers answer at the URL in $NAME, for the root in
// dir/root.pem, which is made the first time, with its key in dir/root.key and that of
// authenticated signing in dir/skep.key; dir is NAME. cfssl -stop NAME ends it.
func cfssl(t *testing.T) func(*testscript.TestScript, bool, []string) {
	roots, running := make(map[string]cfssltest.Root), make(map[string]*cfssltest.Server)
	return func(ts *testscript.TestScript, neg bool, args []string) {
		switch {
		case !neg && len(args) == 2 && args[0] == "-stop":
			running[args[1]].Stop()
			return
		case neg || len(args) != 1:
			ts.Fatalf("usage: cfssl [-stop] NAME")
		}
		name := args[0]
		root, known := roots[name]
		if !known {
			root = cfssltest.NewRoot(t, "example "+name)
			roots[name] = root
			key, err := x509.MarshalECPrivateKey(root.Key)
			ts.Check(err)
			dir := ts.MkAbs(name)
			ts.Check(os.Mkdir(dir, 0o700))
			for file, text := range map[string][]byte{
				"root.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.DER}),
				"root.key": pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: key}),
				"skep.key": []byte(cfssltest.KeyInConfig + "\n"),
			} {
				ts.Check(os.WriteFile(filepath.Join(dir, file), text, 0o600))
			}
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		ts.Check(err)
		running[name] = root.Serve(t, l, root.Handler(t, nil))
		ts.Setenv(name, running[name].At.GetUrl())
	}
}
