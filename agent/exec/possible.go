package exec

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// Impossible returns everything for which no node of this version would run the
// template, whatever the node; none if one could. It is what a service can be
// refused for before it is stored, instead of by each of its tasks for ever.
// labels are the service's own, which placeholders may name.
func Impossible(t *modelv1.TaskTemplate, labels map[string]string) []error {
	c := t.GetContainer()
	var all []error
	_, err := Expand(Spec{Template: t, ServiceName: "service", NodeHostname: "node", ServiceLabels: labels, Slot: 1})
	if err != nil {
		all = append(all, err)
	}
	if c.GetInit() {
		all = append(all, errors.New("an init process in the container is not supported by this version; leave --init away"))
	}
	for _, m := range c.GetMounts() {
		if m.GetType() == modelv1.MountType_MOUNT_TYPE_VOLUME {
			all = append(all, fmt.Errorf("mount at %s: volumes are not supported by this version; use a bind mount", m.GetTarget()))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.GetSysctls())) {
		if HostSysctl(name) {
			all = append(all, fmt.Errorf("sysctl %s: tasks share their host's network in this version, and may not change its settings", name))
		}
	}
	return all
}

// HostSysctl reports whether a kernel setting is the host's, not the container's.
func HostSysctl(name string) bool { return strings.HasPrefix(name, "net.") }

// AllCapabilities stands for every capability.
const AllCapabilities = "CAP_ALL"

// Capability returns a capability's name in the kernel's spelling, "net_raw" as
// "CAP_NET_RAW", and whether Linux has it. [AllCapabilities] counts as known.
func Capability(name string) (full string, known bool) {
	full = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	return full, full == AllCapabilities || slices.Contains(capabilities, full)
}

// capabilities are those of Linux 6.
//
// Source: linux/capability.h.
var capabilities = []string{
	"CAP_AUDIT_CONTROL", "CAP_AUDIT_READ", "CAP_AUDIT_WRITE", "CAP_BLOCK_SUSPEND", "CAP_BPF",
	"CAP_CHECKPOINT_RESTORE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER",
	"CAP_FSETID", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_KILL", "CAP_LEASE", "CAP_LINUX_IMMUTABLE",
	"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_MKNOD", "CAP_NET_ADMIN", "CAP_NET_BIND_SERVICE",
	"CAP_NET_BROADCAST", "CAP_NET_RAW", "CAP_PERFMON", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP",
	"CAP_SETUID", "CAP_SYSLOG", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_CHROOT", "CAP_SYS_MODULE",
	"CAP_SYS_NICE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE", "CAP_SYS_RAWIO", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_WAKE_ALARM",
}
