package private

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tools are the programs a containerd of our own needs.
type tools struct {
	containerd string
	// path is the search path containerd gets: where the shim and runc are.
	path string
}

// find looks for the programs in dir and then in PATH.
func find(dir string) (tools, error) {
	var t tools
	var dirs []string
	var errs []error
	for _, name := range []string{"containerd", "containerd-shim-runc-v2", "runc"} {
		path, err := findOne(dir, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if name == "containerd" {
			t.containerd = path
		}
		if d := filepath.Dir(path); !slices.Contains(dirs, d) {
			dirs = append(dirs, d)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return tools{}, fmt.Errorf("%w\n\"make deps\" builds what is missing; or name a running containerd with --containerd", err)
	}
	t.path = strings.Join(append(dirs, os.Getenv("PATH")), string(os.PathListSeparator))
	return t, nil
}

func findOne(dir, name string) (string, error) {
	beside := filepath.Join(dir, name)
	if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
		return beside, nil
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: neither in %s nor in PATH", name, dir)
	}
	return filepath.Abs(path)
}

// major asks containerd for the first number of its version.
func (t tools) major(ctx context.Context) (int, error) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	out, err := exec.CommandContext(ctx, t.containerd, "--version").Output()
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", t.containerd, err)
	}
	return parseMajor(string(out))
}

// parseMajor reads "containerd github.com/containerd/containerd/v2 v2.3.7 …",
// or "… 1.6.20~ds1 …" as distributions print it. A development build, "2.3.7+unknown" or
// without a version at all, counts as new.
func parseMajor(line string) (int, error) {
	fields := strings.Fields(line)
	if len(fields) == 0 || fields[0] != "containerd" {
		return 0, fmt.Errorf("containerd's version %q: not known", line)
	}
	for _, f := range fields[1:] {
		first, _, dotted := strings.Cut(strings.TrimPrefix(f, "v"), ".")
		if n, err := strconv.Atoi(first); dotted && err == nil {
			return n, nil
		}
	}
	return 2, nil
}
