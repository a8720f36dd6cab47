package script

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// page SOCKET PATH STATUS [TEXT]: asks for a page over a unix socket until it
// answers with STATUS and, if there is one, TEXT; stdout is what it said.
func page(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: page SOCKET PATH STATUS [TEXT]")
	}
	socket := ts.MkAbs(args[0])
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	tryFor(ts, strings.Join(args, " "), func() error {
		resp, err := client.Get("http://skep" + args[1])
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(resp.Status, args[2]) || len(args) > 3 && !strings.Contains(string(body), args[3]) {
			return unlike{resp.Status, string(body)}
		}
		_, err = ts.Stdout().Write(body)
		return cmp.Or(err, os.WriteFile(ts.MkAbs("page"), body, 0o600))
	})
}

type unlike struct{ status, body string }

func (u unlike) Error() string { return u.status + "\n" + u.body }

// A family is a name with its kind and its labels: "gauge skep_tasks{state}".
type family = string

// documented FILE: holds the figures in FILE, a page of /metrics, against
// docs/metrics.md, both ways.
func documented(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: documented FILE")
	}
	docs, err := os.ReadFile("../../docs/metrics.md")
	ts.Check(err)
	shown, told := families(ts.ReadFile(args[0])), inDocs(string(docs))
	if len(shown) == 0 {
		ts.Fatalf("%s holds no figures", args[0])
	}
	for _, f := range shown {
		if !slices.Contains(told, f) {
			ts.Fatalf("docs/metrics.md does not tell of %s", f)
		}
	}
	for _, f := range told {
		if !slices.Contains(shown, f) {
			ts.Fatalf("docs/metrics.md tells of %s, which the daemon does not show", f)
		}
	}
}

var docsRow = regexp.MustCompile("(?m)^\\| `(skep_[a-z_]+)(\\{[a-z,]+\\})?` \\| (gauge|counter|histogram) \\| [^|]+ \\| [^|]*\\|$")

func inDocs(text string) []family {
	var out []family
	for _, m := range docsRow.FindAllStringSubmatch(text, -1) {
		labels := strings.FieldsFunc(m[2], func(r rune) bool { return strings.ContainsRune("{,}", r) })
		out = append(out, familyOf(m[3], m[1], labels))
	}
	return out
}

func familyOf(kind, name string, labels []string) family {
	slices.Sort(labels)
	return kind + " " + name + "{" + strings.Join(slices.Compact(labels), ",") + "}"
}

var (
	typeLine   = regexp.MustCompile(`(?m)^# TYPE (skep_\S+) (\S+)$`)
	labelNames = regexp.MustCompile(`[{,]([a-z_]+)="`)
)

// families reads a page of /metrics.
func families(page string) []family {
	var out []family
	for _, m := range typeLine.FindAllStringSubmatch(page, -1) {
		var labels []string
		sample := regexp.MustCompile(`(?m)^` + m[1] + `(?:_bucket|_sum|_count)?(\{.*\})? `)
		for _, s := range sample.FindAllStringSubmatch(page, -1) {
			for _, l := range labelNames.FindAllStringSubmatch(s[1], -1) {
				if l[1] != "le" {
					labels = append(labels, l[1])
				}
			}
		}
		out = append(out, familyOf(m[2], m[1], labels))
	}
	return out
}
