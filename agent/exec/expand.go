package exec

import (
	"errors"
	"fmt"
	"strings"
	"text/template"
	"text/template/parse"

	"google.golang.org/protobuf/proto"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

// expandedBytes bounds one expanded value: a placeholder cannot fill the
// agent's memory.
const expandedBytes = 64 << 10

// Expand returns the spec's template with the placeholders of hostname,
// environment and mounts filled in: .Service.ID .Service.Name .Service.Labels
// .Node.ID .Node.Hostname .Task.ID .Task.Name .Task.Slot, in the syntax of
// text/template. The spec's own template is not touched. A placeholder without
// sense is [ErrRejected].
func Expand(s Spec) (*modelv1.TaskTemplate, error) {
	if s.Template.GetContainer() == nil {
		return nil, Rejected(errors.New("the task has no container template"))
	}
	t := proto.CloneOf(s.Template)
	c, words := t.GetContainer(), s.words()
	var errs []error
	fill := func(field string, value *string) {
		filled, err := expand(*value, words)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %q: %w", field, *value, err))
			return
		}
		*value = filled
	}
	fill("hostname", &c.Hostname)
	for i := range c.Env {
		fill("env", &c.Env[i])
	}
	for _, m := range c.Mounts {
		fill("mount source", &m.Source)
		fill("mount target", &m.Target)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, Rejected(err)
	}
	return t, nil
}

// placeholders is what a template may name.
type placeholders struct {
	Service struct {
		ID, Name string
		Labels   map[string]string
	}
	Node struct{ ID, Hostname string }
	Task struct{ ID, Name, Slot string }
}

func (s Spec) words() placeholders {
	var p placeholders
	p.Service.ID, p.Service.Name, p.Service.Labels = s.Service.String(), s.ServiceName, s.ServiceLabels
	p.Node.ID, p.Node.Hostname = s.Node.String(), s.NodeHostname
	p.Task.ID, p.Task.Name = s.Task.String(), s.Name()
	p.Task.Slot = s.Node.String()
	if s.Slot != 0 {
		p.Task.Slot = fmt.Sprint(s.Slot)
	}
	return p
}

func expand(text string, words placeholders) (string, error) {
	if !strings.Contains(text, "{{") {
		return text, nil
	}
	t, err := template.New("value").Option("missingkey=error").Parse(text)
	if err != nil {
		return "", err
	}
	for _, node := range t.Root.Nodes {
		switch node.Type() {
		case parse.NodeText, parse.NodeAction:
		default:
			return "", fmt.Errorf("%s: a placeholder may only name a value", node)
		}
	}
	var out bounded
	if err := t.Execute(&out, words); err != nil {
		return "", err
	}
	return out.String(), nil
}

// bounded is a builder that refuses to grow past expandedBytes.
type bounded struct{ strings.Builder }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > expandedBytes {
		return 0, fmt.Errorf("expands to more than %d bytes", expandedBytes)
	}
	return b.Builder.Write(p)
}
