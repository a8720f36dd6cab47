package spec

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func (p *parser) mounts(name string) []*modelv1.Mount {
	var out []*modelv1.Mount
	for _, text := range p.f.StringSlice(name) {
		m, err := ParseMount(text)
		if err != nil {
			p.check(false, fmt.Sprintf("--%s %q: %v", name, text, err))
			continue
		}
		p.check(!slices.ContainsFunc(out, func(o *modelv1.Mount) bool { return o.Target == m.Target }),
			fmt.Sprintf("--%s %q: target %s is mounted twice", name, text, m.Target))
		out = append(out, m)
	}
	return out
}

// ParseMount reads "type=bind,source=/a,target=/b,readonly": fields as in a line
// of CSV, so that a value with a comma may be quoted.
func ParseMount(text string) (*modelv1.Mount, error) {
	fields, err := csvFields(text)
	if err != nil {
		return nil, err
	}
	m := &modelv1.Mount{Type: modelv1.MountType_MOUNT_TYPE_VOLUME}
	kinds := map[string]bool{} // which types' own options were given
	for _, field := range fields {
		key, value, given := strings.Cut(field, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if kind, _, ok := strings.Cut(key, "-"); ok {
			kinds[kind] = true
		}
		if err := setMount(m, key, value, given); err != nil {
			return nil, err
		}
	}
	return m, checkMount(m, kinds)
}

func csvFields(text string) ([]string, error) {
	r := csv.NewReader(strings.NewReader(text))
	fields, err := r.Read()
	if err != nil {
		return nil, errors.New("want type=TYPE,source=SOURCE,target=TARGET")
	}
	if _, err := r.Read(); !errors.Is(err, io.EOF) {
		return nil, errors.New("want one line")
	}
	return fields, nil
}

func setMount(m *modelv1.Mount, key, value string, given bool) (err error) {
	switch key {
	case "type":
		m.Type, err = mountType(value)
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		m.Target = value
	case "readonly", "ro":
		m.ReadOnly, err = mountBool(key, value, given)
	case "bind-propagation":
		m.Propagation, err = propagation(value)
	case "bind-create-src":
		m.CreateSource, err = mountBool(key, value, given)
	case "tmpfs-size":
		m.TmpfsSize, err = parseBytes(value)
	case "tmpfs-mode":
		m.TmpfsMode, err = tmpfsMode(value)
	case "consistency": // means something on other systems only
	case "bind-recursive", "bind-nonrecursive", "volume-subpath", "volume-nocopy", "volume-label",
		"volume-driver", "volume-opt", "image-subpath":
		return fmt.Errorf("%s is not served yet", key)
	default:
		return fmt.Errorf("there is no field %q", key)
	}
	return err
}

func mountType(value string) (modelv1.MountType, error) {
	switch strings.ToLower(value) {
	case "bind":
		return modelv1.MountType_MOUNT_TYPE_BIND, nil
	case "tmpfs":
		return modelv1.MountType_MOUNT_TYPE_TMPFS, nil
	case "volume":
		return modelv1.MountType_MOUNT_TYPE_VOLUME, nil
	case "cluster", "image", "npipe":
		return 0, fmt.Errorf("type %s is not served yet", value)
	}
	return 0, fmt.Errorf("type %q: want bind, tmpfs or volume", value)
}

func mountBool(key, value string, given bool) (bool, error) {
	if !given {
		return true, nil
	}
	yes, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s %q: want true or false", key, value)
	}
	return yes, nil
}

func propagation(value string) (string, error) {
	known := []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}
	if !slices.Contains(known, value) {
		return "", fmt.Errorf("bind-propagation %q: want one of %s", value, strings.Join(known, ", "))
	}
	return value, nil
}

func tmpfsMode(value string) (uint32, error) {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, fmt.Errorf("tmpfs-mode %q: want an octal mode such as 1770", value)
	}
	return uint32(n), nil
}

// checkMount holds a whole mount to what its type needs.
func checkMount(m *modelv1.Mount, kinds map[string]bool) error {
	bind, tmpfs := m.Type == modelv1.MountType_MOUNT_TYPE_BIND, m.Type == modelv1.MountType_MOUNT_TYPE_TMPFS
	switch {
	case m.Target == "":
		return errors.New("target is missing")
	case !path.IsAbs(m.Target):
		return fmt.Errorf("target %q: want an absolute path", m.Target)
	case bind && !path.IsAbs(m.Source):
		return fmt.Errorf("source %q: a bind mount wants an absolute path", m.Source)
	case tmpfs && m.Source != "":
		return errors.New("a tmpfs has no source")
	case kinds["bind"] && !bind:
		return errors.New("bind options go with type=bind")
	case kinds["tmpfs"] && !tmpfs:
		return errors.New("tmpfs options go with type=tmpfs")
	}
	return nil
}
