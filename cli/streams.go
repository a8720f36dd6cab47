package cli

import (
	"os"

	"golang.org/x/term"

	"github.com/skep-project/skep/cli/say"
)

// ProcessStreams returns those of this process.
func ProcessStreams() say.Streams {
	return say.Streams{
		In:     os.Stdin,
		Out:    os.Stdout,
		Err:    os.Stderr,
		Getenv: os.Getenv,
		Ask:    ask,
		Terminal: func() (int, bool) {
			width, _, err := term.GetSize(int(os.Stderr.Fd()))
			return width, err == nil && width > 0
		},
		Width: func() int {
			width, _, err := term.GetSize(int(os.Stdout.Fd()))
			if err != nil {
				return 0
			}
			return width
		},
	}
}
