package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/term"

	"github.com/skep-project/skep/internal/sealed"
)

// ask reads a line from this process's terminal without showing it: from the
// terminal itself, for standard input may be something else's.
func ask(ctx context.Context, prompt string) (sealed.Secret, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) && !term.IsTerminal(int(os.Stderr.Fd())) {
		return sealed.Secret{}, errNoTerminal // a script's, even if it was started at one
	}
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return sealed.Secret{}, errNoTerminal
	}
	defer tty.Close()
	fd := int(tty.Fd())
	was, err := term.GetState(fd)
	if err != nil {
		return sealed.Secret{}, errNoTerminal
	}
	if _, err := fmt.Fprint(tty, prompt); err != nil {
		return sealed.Secret{}, err
	}
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1) // the reader is left behind by an interrupt: the process ends
	go func() {
		text, err := term.ReadPassword(fd)
		read <- line{text, err}
	}()
	select {
	case <-ctx.Done():
		_ = term.Restore(fd, was) // the process ends
		return sealed.Secret{}, ctx.Err()
	case l := <-read:
		_, _ = fmt.Fprintln(tty) // the user's own newline was not shown
		secret := sealed.NewSecret(l.text)
		clear(l.text)
		return secret, l.err
	}
}

// errNoTerminal says that there is nobody to ask.
var errNoTerminal = errors.New("there is no terminal to ask at")
