package argv_test

import (
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/argv"
	"github.com/skep-project/skep/cli/say"
)

// app is a small ctl: what a command gets is noted in got, if that is not nil.
func app(got *[]string) *cli.App {
	a := &cli.App{
		Name:  "ctl",
		Flags: []cli.Flag{&cli.StringFlag{Name: "host", Aliases: []string{"H"}}},
		Commands: []*cli.Command{{Name: "service", Subcommands: []*cli.Command{
			{Name: "create", ArgsUsage: "IMAGE", Flags: []cli.Flag{
				&cli.StringSliceFlag{Name: "env", Aliases: []string{"e"}},
				&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}},
				&cli.BoolFlag{Name: "tty", Aliases: []string{"t"}},
				&cli.StringSliceFlag{Name: "host"},
			}},
			{Name: "update", ArgsUsage: "SERVICE", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "force"}, &cli.StringFlag{Name: "image"}, &cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}},
			}},
			{Name: "save", ArgsUsage: "FILE", HideHelp: true, Flags: []cli.Flag{&cli.BoolFlag{Name: "force"}}, Subcommands: []*cli.Command{
				{Name: "verify", ArgsUsage: "FILE", Flags: []cli.Flag{&cli.StringFlag{Name: "key"}}},
			}},
			{Name: "ls", Aliases: []string{"list"}, Flags: []cli.Flag{&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}}}},
		}}},
		DisableSliceFlagSeparator: true,
		ExitErrHandler:            func(*cli.Context, error) {},
	}
	for _, c := range append(a.Commands[0].Subcommands, a.Commands[0].Command("save").Subcommands...) {
		c.HideHelpCommand = true
		c.Action = func(c *cli.Context) error {
			if got != nil {
				*got = c.Args().Slice()
			}
			return nil
		}
	}
	return a
}

func closed(path string) bool { return path == "service create" }

func TestFlagsStandBeforeArguments(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, in, want string }{
		{"a flag behind the argument", "service update web --force", "service update --force -- web"},
		{"a value behind the argument", "service update web --image a:b", "service update --image=a:b -- web"},
		{"ctl's own flag anywhere", "service update web --host unix:///x", "--host=unix:///x service update -- web"},
		{"a command's flag hides ctl's", "--host a service create --host b:1 img", "--host=a service create --host=b:1 -- img"},
		{"behind the image all is the container's", "service create -e A=1 img sh -c --quiet -- x", "service create --env=A=1 -- img sh -c --quiet -- x"},
		{"two dashes end the flags", "service update -- --force", "service update -- --force"},
		{"letters in a group", "service create -qte A=1 img", "service create --quiet --tty --env=A=1 -- img"},
		{"a value stuck to its letter", "service ls -fname=x", "service ls --filter=name=x"},
		{"an alias of a command", "service list", "service ls"},
		{"a switch with a value", "service update web --force=false", "service update --force=false -- web"},
		{"an argument where a command may stand", "service save web --force", "service save --force -- web"},
		{"a command where an argument may stand", "service save verify web --key k", "service save verify --key=k -- web"},
		{"an argument that is called as a command elsewhere", "service save ls verify", "service save -- ls verify"},
		{"help wins", "service update web --help", "service update --help"},
		{"a lone dash is an argument", "service update -", "service update -- -"},
		{"a value that looks like a flag", "service update web --image --force", "service update --image=--force -- web"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := argv.Order(app(nil), closed, strings.Fields(tt.in))
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("Order(%q) = %q, %v; want %q", tt.in, strings.Join(got, " "), err, tt.want)
			}
		})
	}
}

func TestNonsenseIsRefusedInWords(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"service update web --forse":   "there is no flag --forse",
		"service update web -image x":  "there is no flag -i",
		"service update web --image":   "wants a value",
		"service update --force=maybe": "neither true nor false",
		"service up":                   `there is no command "service up"`,
		"service save --force verify":  `its flags stand behind its name`,
		"service ls more":              `takes no argument, got "more"`,
		"service ls ---f":              "is not a flag",
	} {
		_, err := argv.Order(app(nil), closed, strings.Fields(in))
		if err == nil || !strings.Contains(err.Error(), want) || say.Code(err) != say.Misused {
			t.Errorf("Order(%q) = %v (code %d), want %q and %d", in, err, say.Code(err), want, say.Misused)
		}
	}
}

// FuzzOrder holds Order to what must be true of every line: nothing is lost, and
// what it returns is its own answer.
func FuzzOrder(f *testing.F) {
	f.Add("service update web --force")
	f.Add("service create -qe A=1 img --x -- y")
	f.Add("-H x service ls -f a=b")
	f.Add("service update -- --force -q")
	f.Add("service save --force x verify")
	f.Fuzz(func(t *testing.T, text string) {
		in := strings.Fields(text)
		once, err := argv.Order(app(nil), closed, in)
		if err != nil {
			return
		}
		twice, err := argv.Order(app(nil), closed, once)
		if err != nil || !slices.Equal(once, twice) {
			t.Errorf("Order(%q) = %q, and of that %q, %v", in, once, twice, err)
		}
		var got []string
		a := app(&got)
		a.Writer, a.ErrWriter = io.Discard, io.Discard
		if err := a.Run(append([]string{"ctl"}, once...)); err != nil {
			t.Errorf("the flag parser refuses %q: %v", once, err)
		}
		if i := slices.Index(once, "--"); i >= 0 && !slices.Equal(once[i+1:], got) && !slices.Contains(once, "--help") {
			t.Errorf("the command gets %q of %q", got, once)
		}
	})
}
