// Command nfpm makes the Debian package of a tree of files that is staged
// already: nfpm CONFIG TREE OUT writes OUT. Its times are those of
// SOURCE_DATE_EPOCH; VERSION and ARCH, from the environment, are the package's,
// and DEFAULT its /etc/default/skep. COMPRESSION is how hard to try: gzip:1 to
// gzip:9; gzip:6, if it is not set.
//
// It is a program of its own, because nfpm's also makes the packages of other
// systems, with some hundred modules that are not needed here.
package main

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/goreleaser/nfpm/v2"
	_ "github.com/goreleaser/nfpm/v2/deb"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: nfpm CONFIG TREE OUT")
		os.Exit(2)
	}
	if err := pack(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, "nfpm:", err)
		os.Exit(1)
	}
}

func pack(config, tree, out string) error {
	libc, err := needs(tree + "/usr/lib/skep/runc")
	if err != nil {
		return err
	}
	known := map[string]string{"TREE": tree, "DEFAULT": os.Getenv("DEFAULT"), "LIBC": libc, "VERSION": os.Getenv("VERSION"), "ARCH": os.Getenv("ARCH")}
	c, err := nfpm.ParseFileWithEnvMapping(config, func(name string) string { return known[name] })
	if err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	info, err := c.Get("deb")
	if err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	info.Deb.Compression = cmp.Or(os.Getenv("COMPRESSION"), "gzip:6")
	deb, err := nfpm.Get("deb")
	if err != nil {
		return err
	}
	f, err := os.Create(out + ".new")
	if err != nil {
		return err
	}
	if err := errors.Join(deb.Package(nfpm.WithDefaults(info), f), f.Close()); err != nil {
		return errors.Join(err, os.Remove(out+".new"))
	}
	return os.Rename(out+".new", out)
}

// needs returns the oldest version of glibc that a program runs with.
func needs(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", err
	}
	defer f.Close()
	symbols, err := f.ImportedSymbols()
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	most := []int{0}
	for _, s := range symbols {
		if version, ok := strings.CutPrefix(s.Version, "GLIBC_"); ok {
			if v := numbers(version); slices.Compare(v, most) > 0 {
				most = v
			}
		}
	}
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(most), " ", "."), "[]"), nil
}

// numbers reads "2.34"; what is no number counts as 0.
func numbers(version string) (all []int) {
	for part := range strings.SplitSeq(version, ".") {
		n, _ := strconv.Atoi(part)
		all = append(all, n)
	}
	return all
}
