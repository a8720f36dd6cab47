package private

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// config returns containerd's configuration. Everything that would reach beyond
// its own directories is off: plugins that listen, the Kubernetes endpoint,
// drop-in files of another containerd on the host.
func (s *Supervisor) config(major int) string {
	version, disabled := 3, []string{
		"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
		"io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp",
		"io.containerd.internal.v1.tracing",
	}
	if major < 2 {
		version = 2
	}
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Written by ctl at each start; changes are lost.")
	line("version = %d", version)
	line("root = %s", quote(filepath.Join(s.cfg.StateDir, "root")))
	line("state = %s", quote(filepath.Join(s.cfg.RunDir, "state")))
	line("imports = []")
	line("oom_score = -500")
	line("disabled_plugins = [%s]", quoteAll(disabled))
	line("[grpc]")
	line("  address = %s", quote(s.Address()))
	line("  uid = 0")
	line("  gid = 0")
	line("[ttrpc]")
	line("  address = %s", quote(s.Address()+".ttrpc"))
	line("[debug]")
	line("  level = \"warn\"")
	if s.cfg.CgroupPath != "" {
		line("[cgroup]")
		line("  path = %s", quote(s.cfg.CgroupPath))
	}
	if major >= 2 {
		line("[plugins.\"io.containerd.transfer.v1.local\"]")
		line("  config_path = %s", quote(s.cfg.HostsDir))
	}
	return b.String()
}

// quote returns s as a TOML string; Go's escapes of plain paths are TOML's.
func quote(s string) string { return strconv.Quote(s) }

func quoteAll(all []string) string {
	var out []string
	for _, s := range all {
		out = append(out, quote(s))
	}
	return strings.Join(out, ", ")
}
