package daemon

import (
	"crypto/fips140"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/skep-project/skep/cli/say"
)

// fipsMode is whether the process's cryptography is in FIPS 140-3 mode, and the
// version of the module that does it. The form of the mode in which all else ends
// the program is refused before it does: identifiers of keys in certificates are
// SHA-1.
func fipsMode() (on bool, module string, err error) {
	if fips140.Enforced() {
		return false, "", say.Hinted(say.Misuse("daemon: GODEBUG=fips140=only would end the daemon at the first certificate it signs"), "use fips140=on, or --fips")
	}
	return fips140.Enabled(), fips140.Version(), nil
}

// startInFIPS puts this program anew into the place of this process, in FIPS 140-3
// mode: a Go program learns that from its environment alone, before it begins. The
// process id, and what systemd knows by it, stay. It returns if that cannot be done.
func startInFIPS() error {
	env, err := fipsEnvironment(os.Environ())
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return fmt.Errorf("daemon: start in FIPS 140-3 mode: %w", err)
	}
	err = syscall.Exec(program, os.Args, env) //nolint:gosec // this very program, with its own arguments
	return fmt.Errorf("daemon: start %s in FIPS 140-3 mode: %w", program, err)
}

// fipsEnvironment returns env with the mode asked for. If it is already, and this
// process is not in it all the same, there is no use in asking again.
func fipsEnvironment(env []string) ([]string, error) {
	out, settings := []string{}, []string{}
	for _, kv := range env {
		text, found := strings.CutPrefix(kv, "GODEBUG=")
		if !found {
			out = append(out, kv)
			continue
		}
		settings = settings[:0] // the last one counts
		for s := range strings.SplitSeq(text, ",") {
			switch name, value, _ := strings.Cut(s, "="); {
			case name != "fips140":
				settings = append(settings, s)
			case value == "on" || value == "only":
				return nil, errors.New("daemon: GODEBUG asks for FIPS 140-3 mode and this program is not in it: it was built without the module, see docs/guides/fips.md")
			}
		}
	}
	return append(out, "GODEBUG="+strings.Join(append(settings, "fips140=on"), ",")), nil
}
