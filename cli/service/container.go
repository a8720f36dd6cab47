package service

import (
	"strings"
	"time"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

type containerSpec struct {
	Image           string
	Labels          map[string]string `json:",omitempty"`
	Command         []string          `json:",omitempty"`
	Args            []string          `json:",omitempty"`
	Hostname        string            `json:",omitempty"`
	Env             []string          `json:",omitempty"`
	Dir             string            `json:",omitempty"`
	User            string            `json:",omitempty"`
	Groups          []string          `json:",omitempty"`
	StopSignal      string            `json:",omitempty"`
	StopGracePeriod time.Duration
	TTY             bool              `json:",omitempty"`
	Init            bool              `json:",omitempty"`
	ReadOnly        bool              `json:",omitempty"`
	Mounts          []mount           `json:",omitempty"`
	Hosts           []string          `json:",omitempty"`
	Sysctls         map[string]string `json:",omitempty"`
	CapabilityAdd   []string          `json:",omitempty"`
	CapabilityDrop  []string          `json:",omitempty"`
	Ulimits         []ulimit          `json:",omitempty"`
	OomScoreAdj     int64             `json:",omitempty"`
}

type ulimit struct {
	Name       string
	Hard, Soft int64
}

type mount struct {
	Type         string
	Source       string `json:",omitempty"`
	Target       string
	ReadOnly     bool          `json:",omitempty"`
	BindOptions  *bindOptions  `json:",omitempty"`
	TmpfsOptions *tmpfsOptions `json:",omitempty"`
}

type bindOptions struct {
	Propagation      string `json:",omitempty"`
	CreateMountpoint bool   `json:",omitempty"`
}

type tmpfsOptions struct {
	SizeBytes int64  `json:",omitempty"`
	Mode      uint32 `json:",omitempty"`
}

func newContainer(c *modelv1.ContainerSpec) containerSpec {
	out := containerSpec{
		Image: c.GetImage(), Labels: c.GetLabels(), Command: c.GetCommand(), Args: c.GetArgs(),
		Hostname: c.GetHostname(), Env: c.GetEnv(), Dir: c.GetDir(), User: c.GetUser(), Groups: c.GetGroups(),
		StopSignal: c.GetStopSignal(), StopGracePeriod: time.Duration(c.GetStopGracePeriod()),
		TTY: c.GetTty(), Init: c.GetInit(), ReadOnly: c.GetReadOnly(), Hosts: c.GetHosts(), Sysctls: c.GetSysctls(),
		CapabilityAdd: c.GetCapAdd(), CapabilityDrop: c.GetCapDrop(), OomScoreAdj: c.GetOomScoreAdj(),
	}
	for _, m := range c.GetMounts() {
		out.Mounts = append(out.Mounts, newMount(m))
	}
	for _, u := range c.GetUlimits() {
		out.Ulimits = append(out.Ulimits, ulimit{u.GetName(), u.GetHard(), u.GetSoft()})
	}
	return out
}

func newMount(m *modelv1.Mount) mount {
	out := mount{Type: mountType(m), Source: m.GetSource(), Target: m.GetTarget(), ReadOnly: m.GetReadOnly()}
	if m.GetPropagation() != "" || m.GetCreateSource() {
		out.BindOptions = &bindOptions{m.GetPropagation(), m.GetCreateSource()}
	}
	if m.GetTmpfsSize() != 0 || m.GetTmpfsMode() != 0 {
		out.TmpfsOptions = &tmpfsOptions{m.GetTmpfsSize(), m.GetTmpfsMode()}
	}
	return out
}

func mountType(m *modelv1.Mount) string {
	return strings.ToLower(strings.TrimPrefix(m.GetType().String(), "MOUNT_TYPE_"))
}
