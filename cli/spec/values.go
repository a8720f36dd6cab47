package spec

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/mattn/go-shellwords"

	modelv1 "github.com/skep-project/skep/proto/skep/model/v1"
)

func quote(s string) string { return strconv.Quote(s) }

func (p *parser) any(names ...string) bool {
	for _, n := range names {
		if p.f.IsSet(n) {
			return true
		}
	}
	return false
}

// count reads a whole number from 0 up.
func (p *parser) count(name string) uint64 {
	n, err := ParseCount(p.f.String(name))
	if err != nil {
		p.check(false, "--"+name+" "+err.Error())
	}
	return n
}

// ParseCount reads a whole number from 0 up, with room for no absurd one.
func ParseCount(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > 1<<31 {
		return 0, fmt.Errorf("%q: want a whole number from 0 to %d", text, 1<<31)
	}
	return n, nil
}

func (p *parser) between(name string, low, high int64) int64 {
	text := p.f.String(name)
	n, err := strconv.ParseInt(text, 10, 64)
	p.check(err == nil && n >= low && n <= high,
		fmt.Sprintf("--%s %q: want a whole number from %d to %d", name, text, low, high))
	return n
}

// duration reads "1m30s"; a bare number is not one, for nobody knows its unit.
func (p *parser) duration(name string) int64 {
	text := p.f.String(name)
	d, err := time.ParseDuration(text)
	p.check(err == nil && d >= 0, fmt.Sprintf(`--%s %q: want a duration such as "10s" or "1m30s"`, name, text))
	return int64(d)
}

func (p *parser) ratio(name string) float64 {
	text := p.f.String(name)
	r, err := strconv.ParseFloat(text, 64)
	p.check(err == nil && r >= 0 && r <= 1, fmt.Sprintf("--%s %q: want a share from 0 to 1", name, text))
	return r
}

// cpus reads "1.5" as billionths of a CPU.
func (p *parser) cpus(to *int64, name string) {
	if !p.f.IsSet(name) {
		return
	}
	text := p.f.String(name)
	n, err := parseCPUs(text)
	p.check(err == nil, fmt.Sprintf("--%s %q: want a number of CPUs such as 0.5", name, text))
	*to = n
}

func parseCPUs(text string) (int64, error) {
	if len(text) > 32 || strings.ContainsAny(text, "/eExXpP_") {
		return 0, fmt.Errorf("not a number") // before an exponent is worked out
	}
	r, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, fmt.Errorf("not a number")
	}
	nano := r.Mul(r, big.NewRat(1e9, 1))
	if !nano.IsInt() || nano.Sign() < 0 || !nano.Num().IsInt64() {
		return 0, fmt.Errorf("out of range")
	}
	return nano.Num().Int64(), nil
}

func (p *parser) bytes(to *int64, name string) {
	if !p.f.IsSet(name) {
		return
	}
	n, err := parseBytes(p.f.String(name))
	p.check(err == nil, fmt.Sprintf(`--%s %q: want a size such as "512m" or "2g"`, name, p.f.String(name)))
	*to = n
}

func parseBytes(text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("size %q", text)
	}
	return n, nil
}

// words reads a command as a shell would, without running anything.
func (p *parser) words(name string) []string {
	w := shellwords.NewParser()
	w.ParseEnv, w.ParseBacktick = false, false
	out, err := w.Parse(p.f.String(name))
	p.check(err == nil && w.Position < 0, fmt.Sprintf("--%s %q: a quote or an operator is out of place", name, p.f.String(name)))
	return out
}

// pairs reads "key=value" or "key" into a copy of onto.
func (p *parser) pairs(name string, onto map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range onto {
		out[k] = v
	}
	for _, text := range p.f.StringSlice(name) {
		k, v, _ := strings.Cut(text, "=")
		k = strings.TrimSpace(k)
		p.check(k != "", fmt.Sprintf("--%s %q: want KEY=VALUE", name, text))
		out[k] = v
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// preferences reads "spread=node.labels.zone".
func (p *parser) preferences(name string) []string {
	var out []string
	for _, text := range p.f.StringSlice(name) {
		kind, over, ok := strings.Cut(text, "=")
		over = strings.TrimSpace(over)
		good := ok && strings.TrimSpace(kind) == "spread" && over != ""
		p.check(good, fmt.Sprintf("--%s %q: want spread=node.labels.NAME or spread=engine.labels.NAME", name, text))
		out = append(out, over)
	}
	return out
}

// hosts reads "name:address" and keeps it as a line of hosts(5): "address name".
func (p *parser) hosts(name string) []string {
	var out []string
	for _, text := range p.f.StringSlice(name) {
		host, address, ok := strings.Cut(text, ":")
		p.check(ok && host != "" && address != "", fmt.Sprintf("--%s %q: want NAME:ADDRESS", name, text))
		out = append(out, address+" "+host)
	}
	return out
}

func (p *parser) ulimits(name string) []*modelv1.Ulimit {
	var out []*modelv1.Ulimit
	for _, text := range p.f.StringSlice(name) {
		u, err := units.ParseUlimit(text)
		if err != nil {
			p.check(false, fmt.Sprintf("--%s %q: want NAME=SOFT[:HARD], such as nofile=1024:2048", name, text))
			continue
		}
		out = append(out, &modelv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out
}

// capabilities writes "net_admin" and "CAP_NET_ADMIN" the same way.
func capabilities(list []string) []string {
	var out []string
	for _, c := range list {
		c = strings.ToUpper(strings.TrimSpace(c))
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		out = append(out, c)
	}
	return out
}
