package containerdtest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// busybox is where Debian's busybox-static is.
const busybox = "/bin/busybox"

// NewRegistry returns a registry at a port of the loopback address, speaking
// plain HTTP, whose requests pass through around first (nil: as they are).
func NewRegistry(t testing.TB, around func(http.Handler) http.Handler) *httptest.Server {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	if around != nil {
		handler = around(handler)
	}
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

// Alias makes images of a registry that is called host in references come from
// the server at url, by a hosts.toml in hostsDir.
func Alias(t testing.TB, hostsDir, host, url string) {
	t.Helper()
	dir := filepath.Join(hostsDir, host)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	toml := fmt.Sprintf("server = %q\n", url)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Push pushes an image to server as repository:tag and returns its digest.
func Push(t testing.TB, server *httptest.Server, repository string, img v1.Image, opts ...remote.Option) string {
	t.Helper()
	ref, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://")+"/"+repository, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img, opts...); err != nil {
		t.Fatal(err)
	}
	digest, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// Busybox returns an image of the host's static busybox. Its user is root, its
// command a shell; /etc/passwd knows "app" (1000) of group "crew" (2000).
// config may be nil, or change the image's configuration.
func Busybox(t testing.TB, config func(*v1.Config)) v1.Image {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		if os.Getenv(need) == "1" {
			t.Fatalf("%v: install busybox-static", err)
		}
		t.Skipf("%v: install busybox-static", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		data, err := rootfs(program)
		return io.NopCloser(bytes.NewReader(data)), err
	})
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	about, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	about = about.DeepCopy()
	about.OS, about.Architecture = "linux", runtime.GOARCH
	about.Config.Cmd = []string{"sh"}
	about.Config.Env = []string{"PATH=/bin", "FROM=image"}
	if config != nil {
		config(&about.Config)
	}
	if img, err = mutate.ConfigFile(img, about); err != nil {
		t.Fatal(err)
	}
	return img
}

// rootfs returns the tar of the image's files.
func rootfs(program []byte) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	add := func(h tar.Header, data string) error {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.WriteString(w, data)
		return err
	}
	for _, dir := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "root/"} {
		if err := add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, ""); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, ""); err != nil {
		return nil, err
	}
	for _, file := range [][2]string{
		{"etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1000:2000::/tmp:/bin/sh\n"},
		{"etc/group", "root:x:0:\ncrew:x:2000:\nextra:x:3000:app\nmore:x:4000:\n"},
	} {
		if err := add(tar.Header{Typeflag: tar.TypeReg, Name: file[0], Mode: 0o644}, file[1]); err != nil {
			return nil, err
		}
	}
	if err := add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(program)); err != nil {
		return nil, err
	}
	for _, applet := range []string{"sh", "cat", "sleep", "true", "false", "id", "hostname", "ping", "touch", "tail", "dd", "head", "mount", "pwd", "env", "kill", "grep", "echo", "ls", "tty"} {
		if err := add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox"}, ""); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
