//go:build lab

package deb

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
)

// root is the repository's.
const root = "../.."

// later is the version of the build that the host is upgraded to.
const later = "v99.0.0-rc1"

// command runs a program of this machine and returns what it printed.
func command(ctx context.Context, env []string, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, errs.String())
	}
	return strings.TrimSpace(string(out)), nil
}

// quick packs in a third of the time, into a few megabytes more.
const quick = "COMPRESSION=gzip:1"

// packages makes the package of the programs under test, twice, in different
// circumstances, and one of a later version.
func packages(t *testing.T) (first, again, second string) {
	t.Helper()
	nfpm := os.Getenv("SKEP_NFPM")
	if nfpm == "" {
		nfpm = filepath.Join(t.TempDir(), "nfpm")
		if _, err := command(t.Context(), nil, "go", "build", "-C", root+"/internal/tools/nfpm", "-trimpath", "-o", nfpm, "."); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Dir(os.Getenv("SKEP_BIN"))
	if bin == "." {
		bin = root + "/bin"
	}
	g, ctx := errgroup.WithContext(t.Context())
	pack := func(into *string, from string, env ...string) {
		out := t.TempDir()
		g.Go(func() (err error) {
			*into, err = command(ctx, append(env, quick), root+"/packaging/deb.sh", from, nfpm, out)
			return err
		})
	}
	pack(&first, bin)
	pack(&again, bin, "TZ=Asia/Tokyo", "LANG=tr_TR.UTF-8", "TMPDIR="+t.TempDir())
	pack(&second, upgraded(t, bin))
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return first, again, second
}

// upgraded makes a directory of the programs under test in which ctl is of the
// later version.
func upgraded(t *testing.T, bin string) string {
	t.Helper()
	dir := t.TempDir()
	flags := "-s -w -X github.com/skep-project/skep/internal/version.Version=" + later
	if _, err := command(t.Context(), []string{"CGO_ENABLED=0"}, "go", "build", "-C", root, "-trimpath", "-ldflags", flags, "-o", dir+"/ctl", "./cmd/ctl"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		from, err := filepath.Abs(filepath.Join(bin, name))
		if err == nil {
			err = os.Symlink(from, filepath.Join(dir, name))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestVersionsOfLaterCommitsAreNewer walks a project's life: what git describe
// says of it, in order.
func TestVersionsOfLaterCommitsAreNewer(t *testing.T) {
	t.Parallel()
	was := ""
	for _, v := range []struct{ describe, epoch, want string }{
		{"7fa45f0", "1000000000", "0~20010909014640.7fa45f0"},
		{"7fa45f0-dirty", "1000000000", "0~20010909014640.7fa45f0+dirty"},
		{"1c3100c", "1000000001", "0~20010909014641.1c3100c"},
		{"v0.1.0-rc1", "1000000002", "0.1.0~rc1"},
		{"v0.1.0-rc1-3-g7fa45f0", "1000000003", "0.1.0~rc1+3.g7fa45f0"},
		{"v0.1.0", "1000000004", "0.1.0"},
		{"v0.1.0-dirty", "1000000004", "0.1.0+dirty"},
		{"v0.1.1", "1000000005", "0.1.1"},
		{"v0.1.1-9-g7fa45f0", "1000000006", "0.1.1+9.g7fa45f0"},
		{"v0.1.1-10-g1c3100c-dirty", "1000000007", "0.1.1+10.g1c3100c+dirty"},
	} {
		got, err := command(t.Context(), nil, root+"/packaging/deb-version.sh", v.describe, v.epoch)
		if err != nil || got != v.want {
			t.Errorf("%s: %q, %v; want %q", v.describe, got, err, v.want)
		}
		if was != "" {
			if _, err := command(t.Context(), nil, "dpkg", "--compare-versions", was, "lt", got); err != nil {
				t.Errorf("%s is not newer than %s: %v", got, was, err)
			}
		}
		was = got
	}
}
