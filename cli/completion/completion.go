// Package completion lets a shell complete ctl's command lines.
//
// It owns the scripts of the shells, which know nothing but how to ask, and the
// answer: what may stand where the cursor is. That is read from the commands
// themselves (their flags, the words of their help) and, for names, asked of the
// daemon by ctl's own lists.
//
// Invariants: a question has an answer within a short time or none, and never a
// word on the error output; whatever it proposes begins with what was typed.
package completion

import (
	"embed"
	"fmt"
	"path"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
)

//go:embed scripts
var scripts embed.FS

// how each shell loads its script.
var shells = map[string]string{
	"bash": `source <(ctl completion bash), for good in ~/.bashrc`,
	"zsh":  `source <(ctl completion zsh), for good in ~/.zshrc, after compinit`,
	"fish": `ctl completion fish | source, for good in ~/.config/fish/config.fish`,
}

// Command returns "ctl completion".
func Command(s *say.Streams) *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print what makes a shell complete ctl's commands",
		ArgsUsage: "bash|zsh|fish",
		Description: "Load it with\n" + strings.Join([]string{
			"bash: " + shells["bash"], "zsh: " + shells["zsh"], "fish: " + shells["fish"]}, "\n"),
		Action: func(c *cli.Context) error {
			shell := c.Args().First()
			if _, known := shells[shell]; !known || c.Args().Len() != 1 {
				return say.Misuse("completion: say for which shell: bash, zsh or fish")
			}
			text, err := Script(shell)
			if err != nil {
				return err
			}
			_, err = s.Out.Write(text)
			return err
		},
	}
}

// Script returns the script of a shell: bash, zsh or fish.
func Script(shell string) ([]byte, error) {
	text, err := scripts.ReadFile(path.Join("scripts", "ctl."+shell))
	if err != nil {
		return nil, fmt.Errorf("completion: no script for %s: %w", shell, err)
	}
	return text, nil
}

// Asked is the name of the command that the scripts ask: their words follow it,
// the one at the cursor last.
const Asked = "__complete"

// Answer returns the command that the scripts ask.
func Answer(s *say.Streams, c Completer) *cli.Command {
	return &cli.Command{
		Name:      Asked,
		Hidden:    true,
		ArgsUsage: "[WORD...]",
		Action: func(ctx *cli.Context) error {
			answer, ok := c.Complete(ctx.Context, ctx.Args().Slice())
			if !ok {
				return nil
			}
			_, err := fmt.Fprint(s.Out, answer)
			return err
		},
	}
}
