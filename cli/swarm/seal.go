package swarm

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/sealed"
	"github.com/skep-project/skep/manager/backup/seal"
)

const (
	// maxKeyFile bounds a file of keys, or of a passphrase.
	maxKeyFile = 64 << 10
	sealHint   = `seal it to a key with --recipient age1… (age-keygen makes one), or to a passphrase with --passphrase-file FILE`
)

// passphraseFlag says where a passphrase is. It is never on the command line,
// which every user of the machine can read.
func passphraseFlag() cli.Flag {
	return &cli.StringFlag{Name: "passphrase-file", Usage: "`FILE` whose first line is the passphrase (-: standard input)"}
}

// openFlags are those of a command that opens a backup.
func openFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "identity", Aliases: []string{"i"}, Usage: "`FILE` that holds the age identity of a recipient"},
		passphraseFlag(),
	}
}

// lockOf returns whom a backup is sealed to. Nothing is left unsealed. In a swarm
// that asks for FIPS 140-3 mode it is a passphrase, by algorithms that are approved.
func lockOf(ctx context.Context, s *say.Streams, c *cli.Context, fips bool) (seal.Lock, error) {
	toPassphrase := seal.ToPassphrase
	if fips {
		toPassphrase = seal.ToApprovedPassphrase
	}
	keys, files, phrase := c.StringSlice("recipient"), c.StringSlice("recipients-file"), c.String("passphrase-file")
	switch {
	case len(keys)+len(files) > 0 && phrase != "":
		return seal.Lock{}, say.Misuse("swarm backup: a passphrase and recipients exclude each other: whoever had the passphrase would need no key")
	case fips && len(keys)+len(files) > 0:
		return seal.Lock{}, say.Hinted(say.Misuse("swarm backup: the swarm asks for FIPS 140-3 mode, and age's keys (X25519) are not approved for it"),
			"seal it to a passphrase with --passphrase-file FILE")
	case phrase != "":
		p, err := readPassphrase(s, phrase)
		if err != nil {
			return seal.Lock{}, err
		}
		return misuse(toPassphrase(p))
	case len(keys)+len(files) > 0:
		for _, f := range files {
			text, err := readKeyFile(f)
			if err != nil {
				return seal.Lock{}, err
			}
			keys = append(keys, string(text))
		}
		return misuse(seal.ToKeys(keys...))
	}
	p, err := askTwice(ctx, s)
	if err != nil {
		return seal.Lock{}, err
	}
	return misuse(toPassphrase(p))
}

// misuse makes an error of a flag's value one of the command line.
func misuse[T any](v T, err error) (T, error) {
	if err != nil {
		return v, say.Misuse("%v", err)
	}
	return v, nil
}

func askTwice(ctx context.Context, s *say.Streams) (sealed.Secret, error) {
	if s.Ask == nil {
		return sealed.Secret{}, say.Hinted(say.Misuse("swarm backup: it holds the swarm's keys and must be sealed"), sealHint)
	}
	first, err := s.Ask(ctx, "Passphrase for the backup: ")
	if ctx.Err() != nil {
		return sealed.Secret{}, ctx.Err()
	}
	if err != nil {
		return sealed.Secret{}, say.Hinted(say.Misuse("swarm backup: it holds the swarm's keys and must be sealed: %v", err), sealHint)
	}
	second, err := s.Ask(ctx, "The same again: ")
	if err != nil {
		return sealed.Secret{}, err
	}
	if !first.Equal(second) {
		return sealed.Secret{}, say.Misuse("swarm backup: the two passphrases differ")
	}
	return first, nil
}

// readPassphrase returns the first line of a file.
func readPassphrase(s *say.Streams, file string) (sealed.Secret, error) {
	in := s.In
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return sealed.Secret{}, say.Misuse("--passphrase-file: %v", err)
		}
		defer f.Close()
		in = f
	}
	text, err := bufio.NewReader(io.LimitReader(in, maxKeyFile)).ReadBytes('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return sealed.Secret{}, say.Misuse("--passphrase-file: %v", err)
	}
	p := sealed.NewSecret(bytes.TrimRight(text, "\r\n"))
	clear(text)
	return p, nil
}

// readKeyFile returns a small file.
func readKeyFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, say.Misuse("%v", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, say.Misuse("%v", err)
	}
	return text, nil
}

// A sealedFile is a backup being opened; Close it when it is read.
type sealedFile struct {
	io.Reader // the text
	file      io.Closer
}

// Close closes the file.
func (f sealedFile) Close() error { return f.file.Close() }

// openBackup opens the backup that the command's argument names.
func openBackup(ctx context.Context, s *say.Streams, c *cli.Context) (sealedFile, error) {
	path, err := backupPath(c)
	if err != nil {
		return sealedFile{}, err
	}
	in := io.NopCloser(s.In)
	if path != "-" {
		if in, err = os.Open(path); err != nil {
			return sealedFile{}, say.Misuse("%s: %v", say.Path(c.Command.HelpName), err)
		}
	} else if c.String("passphrase-file") == "-" {
		return sealedFile{}, say.Misuse("standard input cannot be both the backup and its passphrase")
	}
	text, err := unseal(ctx, s, c, bufio.NewReader(in))
	if err != nil {
		return sealedFile{}, errors.Join(named(path, err), in.Close())
	}
	return sealedFile{Reader: namedReader{text, path}, file: in}, nil
}

// unseal finds the key and opens the envelope.
func unseal(ctx context.Context, s *say.Streams, c *cli.Context, in *bufio.Reader) (io.Reader, error) {
	identity, phrase := c.String("identity"), c.String("passphrase-file")
	needs := seal.Look(in)
	switch {
	case identity != "" && phrase != "":
		return nil, say.Misuse("--identity and --passphrase-file exclude each other")
	case needs == seal.NeedsNothing:
		return nil, errors.New("this is no sealed backup of a swarm")
	case needs == seal.NeedsIdentity && identity == "":
		return nil, say.Hinted(say.Misuse("it is sealed to the owner of a key"), "name the file of the key with --identity FILE")
	case needs == seal.NeedsPassphrase && identity != "":
		return nil, say.Hinted(say.Misuse("it is sealed to a passphrase, not to a key"), "give the passphrase with --passphrase-file FILE, or type it when asked")
	}
	key, err := keyOf(ctx, s, identity, phrase)
	if err != nil {
		return nil, err
	}
	return key.Open(in)
}

func keyOf(ctx context.Context, s *say.Streams, identity, phrase string) (seal.Key, error) {
	if identity != "" {
		text, err := readKeyFile(identity)
		if err != nil {
			return seal.Key{}, err
		}
		defer clear(text)
		key, err := seal.Identities(text)
		if err != nil {
			return seal.Key{}, say.Misuse("--identity %s: %v", identity, err)
		}
		return key, nil
	}
	p, err := passphraseOf(ctx, s, phrase)
	if err != nil {
		return seal.Key{}, err
	}
	return misuse(seal.Passphrase(p))
}

func passphraseOf(ctx context.Context, s *say.Streams, file string) (sealed.Secret, error) {
	if file != "" {
		return readPassphrase(s, file)
	}
	const hint = "give the passphrase with --passphrase-file FILE"
	if s.Ask == nil {
		return sealed.Secret{}, say.Hinted(say.Misuse("it is sealed to a passphrase"), hint)
	}
	p, err := s.Ask(ctx, "Passphrase of the backup: ")
	if err != nil && ctx.Err() == nil {
		return p, say.Hinted(say.Misuse("it is sealed to a passphrase: %v", err), hint)
	}
	return p, err
}

// named says which file an error is about.
func named(path string, err error) error {
	if path == "-" {
		path = "standard input"
	}
	return fmt.Errorf("%s: %w", path, err)
}

// namedReader names the file in its errors.
type namedReader struct {
	r    io.Reader
	path string
}

// Read reads the text.
func (n namedReader) Read(p []byte) (int, error) {
	k, err := n.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = named(n.path, err)
	}
	return k, err
}

// backupPath returns the command's one argument.
func backupPath(c *cli.Context) (string, error) {
	if c.Args().Len() != 1 {
		return "", say.Misuse("%s: name one file, or - for a pipe", say.Path(c.Command.HelpName))
	}
	return c.Args().First(), nil
}
