package arch

import (
	"fmt"
	"go/ast"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// parsers is the part of the threat model that lists what reads bytes from outside,
// and by which targets it is fuzzed.
const parsers = "## Parsers"

// decoders are functions that make something of bytes or text, by the package that has
// them.
var decoders = map[string][]string{
	"bufio":           {"NewScanner"},
	"crypto/x509":     {"ParseCertificate", "ParseCertificateRequest", "ParseECPrivateKey", "ParsePKCS8PrivateKey", "ParsePKIXPublicKey"},
	"encoding/asn1":   {"Unmarshal"},
	"encoding/base64": {"NewDecoder"},
	"encoding/csv":    {"NewReader"},
	"encoding/hex":    {"DecodeString"},
	"encoding/json":   {"NewDecoder", "Unmarshal"},
	"encoding/pem":    {"Decode"},
	"fmt":             {"Sscan", "Sscanf", "Sscanln"},
	"net":             {"ParseCIDR", "ParseIP"},
	"net/netip":       {"ParseAddr", "ParseAddrPort", "ParsePrefix"},
	"net/url":         {"Parse"},
	"strconv":         {"Atoi", "ParseBool", "ParseFloat", "ParseInt", "ParseUint"},
	"time":            {"Parse", "ParseDuration"},

	"github.com/distribution/reference":                {"Parse", "ParseNormalizedNamed"},
	"github.com/docker/go-units":                       {"ParseUlimit", "RAMInBytes"},
	"github.com/google/go-containerregistry/pkg/authn": {"Resolve"},
	"github.com/mattn/go-shellwords":                   {"NewParser"},
	"go.etcd.io/etcd/server/v3/storage/wal":            {"Open"},
	"google.golang.org/protobuf/encoding/protodelim":   {"UnmarshalFrom", "UnmarshalOptions"},
	"google.golang.org/protobuf/proto":                 {"Unmarshal", "UnmarshalOptions"},
}

// unfuzzed are packages that decode and have no target, each with the reason.
var unfuzzed = map[string]string{
	"agent/containerd/containerdtest": "a host for tests",
	"agent/exec/exectest":             "a runtime for tests",
	"ca/issue/cfssltest":              "a CA for tests",
	"cli/node":                        "shows certificates that a manager sent; it takes none for anything",
	"manager/witness":                 "the address of a connection, as the kernel has it",
}

// laboratories are where tests and measurements live: what they read they have written.
func laboratory(dir string) bool { return within(dir, "integration") || within(dir, "internal/lab") }

// TestWhatParsesIsFuzzed: a package that makes something of bytes from outside has a
// target, and every target stands in the threat model.
func TestWhatParsesIsFuzzed(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, claims))
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(text), "\n"+parsers+"\n")
	if !found {
		t.Fatalf("%s has no part %q", claims, parsers)
	}
	list, _, _ = strings.Cut(list, "\n## ")
	listed := claimed(list, func(name string) bool {
		info, err := os.Stat(filepath.Join(root, name))
		return err == nil && info.IsDir()
	})
	decoding, targets := map[string]string{}, map[string]bool{}
	for _, s := range sources(t) {
		if laboratory(s.dir) {
			continue
		}
		if !s.test {
			if at := s.decodes(); at != "" {
				decoding[s.dir] = at
			}
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") {
				continue
			}
			targets[s.dir] = true
			if !slices.Contains(listed, claim{s.dir, f.Name.Name}) {
				t.Errorf("%s: %s of %s does not stand in %q of %s", s.at(f), f.Name.Name, s.dir, parsers, claims)
			}
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(decoding)) {
		if !targets[dir] && unfuzzed[dir] == "" {
			t.Errorf("%s: package %s decodes and has no fuzz target: write one, or say in unfuzzed why there is none", decoding[dir], dir)
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(unfuzzed)) {
		if decoding[dir] == "" || targets[dir] {
			t.Errorf("package %s stands in unfuzzed and decodes nothing, or has a target", dir)
		}
	}
}

// decodes returns where a file uses a decoder; "" if it does not.
func (s source) decodes() (at string) {
	names := map[string]string{} // of packages, as the file calls them
	for i, imported := range s.imports() {
		name := imported[strings.LastIndex(imported, "/")+1:]
		name = strings.TrimPrefix(name, "go-")
		if as := s.file.Imports[i].Name; as != nil {
			name = as.Name
		}
		names[name] = imported
	}
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return at == ""
		}
		if x, ok := sel.X.(*ast.Ident); ok && slices.Contains(decoders[names[x.Name]], sel.Sel.Name) {
			at = fmt.Sprintf("%s (%s.%s)", s.at(n), x.Name, sel.Sel.Name)
		}
		return at == ""
	})
	return at
}
