package spec

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
)

// env reads the files first and the flags after them, so that a flag overrules
// a file. A bare KEY takes its value from the environment of ctl, or is left out
// where that has none.
func (p *parser) env() []string {
	var out []string
	for _, name := range p.f.StringSlice("env-file") {
		out = mergeEnv(out, p.envFile(name))
	}
	return mergeEnv(out, p.envFlags("env"))
}

func (p *parser) envFlags(name string) []string {
	var out []string
	for _, text := range p.f.StringSlice(name) {
		key, _, given := strings.Cut(text, "=")
		p.check(key != "", fmt.Sprintf("--%s %q: want KEY=VALUE", name, text))
		switch {
		case given:
			out = append(out, text)
		case p.host.Getenv(text) != "":
			out = append(out, text+"="+p.host.Getenv(text))
		}
	}
	return out
}

func (p *parser) envFile(name string) []string {
	data, err := p.host.ReadFile(name)
	if err != nil {
		p.check(false, fmt.Sprintf("--env-file: %v", err))
		return nil
	}
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimLeft(lines.Text(), " \t")
		if text == "" || text[0] == '#' {
			continue
		}
		key, _, given := strings.Cut(text, "=")
		if key == "" || strings.ContainsAny(key, " \t") {
			p.check(false, fmt.Sprintf("--env-file %s: line %d: want KEY=VALUE", name, n))
			continue
		}
		if given {
			out = append(out, text)
		} else if v := p.host.Getenv(key); v != "" {
			out = append(out, key+"="+v)
		}
	}
	p.check(lines.Err() == nil, fmt.Sprintf("--env-file %s: a line is too long", name))
	return out
}

// mergeEnv puts more over env: a key that is there changes in place.
func mergeEnv(env, more []string) []string {
	out := append([]string(nil), env...)
	at := map[string]int{}
	for i, e := range out {
		at[envKey(e)] = i
	}
	for _, e := range more {
		if i, ok := at[envKey(e)]; ok {
			out[i] = e
			continue
		}
		at[envKey(e)] = len(out)
		out = append(out, e)
	}
	return out
}

func envKey(e string) string {
	k, _, _ := strings.Cut(e, "=")
	return k
}
