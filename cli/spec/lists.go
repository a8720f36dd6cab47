package spec

import (
	"slices"
	"strings"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// updateLists reads the -rm and -add flags of update: what goes out goes first,
// so that one line can put something in another's place.
func (p *parser) updateLists(svc *modelv1.ServiceSpec, tpl *modelv1.TaskTemplate) {
	c := tpl.Container
	svc.Labels = p.changePairs("label", svc.Labels)
	c.Labels = p.changePairs("container-label", c.Labels)
	c.Sysctls = p.changePairs("sysctl", c.Sysctls)
	c.Env = mergeEnv(without(c.Env, p.f.StringSlice("env-rm"), envKey), p.envFlags("env-add"))
	c.Groups = union(without(c.Groups, p.f.StringSlice("group-rm"), same), p.f.StringSlice("group-add"))
	c.Hosts = union(p.withoutHosts(c.Hosts), p.hosts("host-add"))
	c.Mounts = replace(without(c.Mounts, p.f.StringSlice("mount-rm"), (*modelv1.Mount).GetTarget),
		p.mounts("mount-add"), (*modelv1.Mount).GetTarget)
	c.Ulimits = replace(without(c.Ulimits, p.f.StringSlice("ulimit-rm"), (*modelv1.Ulimit).GetName),
		p.ulimits("ulimit-add"), (*modelv1.Ulimit).GetName)
	p.changeCapabilities(c)
	p.changePlacement(tpl)
}

func (p *parser) changePairs(name string, m map[string]string) map[string]string {
	if !p.any(name+"-add", name+"-rm") {
		return m
	}
	kept := map[string]string{}
	for k, v := range m {
		if !slices.Contains(p.f.StringSlice(name+"-rm"), k) {
			kept[k] = v
		}
	}
	return p.pairs(name+"-add", kept)
}

// changeCapabilities: what is added is no longer dropped, and the reverse.
func (p *parser) changeCapabilities(c *modelv1.ContainerSpec) {
	add, drop := capabilities(p.f.StringSlice("cap-add")), capabilities(p.f.StringSlice("cap-drop"))
	c.CapAdd = union(without(c.CapAdd, drop, same), add)
	c.CapDrop = union(without(c.CapDrop, add, same), drop)
}

func (p *parser) changePlacement(tpl *modelv1.TaskTemplate) {
	if !p.any("constraint-add", "constraint-rm", "placement-pref-add", "placement-pref-rm") {
		return
	}
	if tpl.Placement == nil {
		tpl.Placement = &modelv1.Placement{}
	}
	pl := tpl.Placement
	pl.Constraints = union(without(pl.Constraints, bare(p.f.StringSlice("constraint-rm")), bareOne),
		p.f.StringSlice("constraint-add"))
	pl.Spread = union(without(pl.Spread, p.preferences("placement-pref-rm"), same), p.preferences("placement-pref-add"))
}

// withoutHosts takes out "name:address", or every line of "name".
func (p *parser) withoutHosts(hosts []string) []string {
	gone := p.f.StringSlice("host-rm")
	return slices.DeleteFunc(slices.Clone(hosts), func(line string) bool {
		address, name, _ := strings.Cut(line, " ")
		return slices.Contains(gone, name) || slices.Contains(gone, name+":"+address)
	})
}

func same(s string) string { return s }

// bareOne is a constraint without its spaces: "a == b" and "a==b" are one.
func bareOne(s string) string { return strings.ReplaceAll(s, " ", "") }

func bare(list []string) []string {
	var out []string
	for _, s := range list {
		out = append(out, bareOne(s))
	}
	return out
}

// without returns list without what has one of the keys.
func without[T any](list []T, keys []string, key func(T) string) []T {
	if len(keys) == 0 {
		return list
	}
	return slices.DeleteFunc(slices.Clone(list), func(t T) bool { return slices.Contains(keys, key(t)) })
}

// union returns list with what of more it does not hold.
func union(list, more []string) []string {
	out := slices.Clone(list)
	for _, s := range more {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// replace returns list with more put over what has the same key.
func replace[T any](list, more []T, key func(T) string) []T {
	out := slices.Clone(list)
	for _, m := range more {
		if i := slices.IndexFunc(out, func(t T) bool { return key(t) == key(m) }); i >= 0 {
			out[i] = m
		} else {
			out = append(out, m)
		}
	}
	return out
}
