package swarm

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skep-project/skep/cli/say"
	"github.com/skep-project/skep/internal/sealed"
)

func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		out = append(out, f.Name())
	}
	return out
}

func TestAFileIsThereWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "swarm.backup")
	for _, keep := range []bool{false, true} {
		o, err := create(path, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Write([]byte("text")); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the name is there before the file is whole: %v", err)
		}
		if keep {
			if err := o.keep(); err != nil {
				t.Fatal(err)
			}
		}
		o.drop()
		if got := names(t, dir); keep != (len(got) == 1) {
			t.Errorf("kept %v: the directory holds %q", keep, got)
		}
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "text" {
		t.Errorf("the file holds %q, %v", text, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, want its owner's only", info.Mode())
	}
}

func TestAFileThatIsThereIsReplacedByForceOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "swarm.backup")
	early, err := create(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer early.drop()
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := early.keep(); err == nil {
		t.Error("a file that came in between was replaced")
	}
	if _, err := create(path, false); err == nil || say.Code(err) != say.Misused {
		t.Errorf("a file that is there: %v", err)
	}
	o, err := create(path, true)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.keep(); err != nil {
		t.Fatal(err)
	}
	o.drop()
	if text, err := os.ReadFile(path); err != nil || len(text) != 0 {
		t.Errorf("by force it holds %q, %v", text, err)
	}
}

func TestAPassphraseIsAskedForTwice(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		answers []string
		want    string // in the error; "" for none
	}{{[]string{"a b", "a b"}, ""}, {[]string{"a", "b"}, "the two passphrases differ"}} {
		s := &say.Streams{Ask: func(context.Context, string) (sealed.Secret, error) {
			next := tt.answers[0]
			tt.answers = tt.answers[1:]
			return sealed.NewSecret([]byte(next)), nil
		}}
		p, err := askTwice(t.Context(), s)
		if tt.want == "" && (err != nil || string(p.Reveal()) != "a b") || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("asked: %v, want %q", err, tt.want)
		}
	}
	if _, err := askTwice(t.Context(), &say.Streams{}); err == nil || say.Code(err) != say.Misused {
		t.Errorf("without a terminal: %v", err)
	}
}

func TestAPassphraseIsTheFirstLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"one\ntwo\n": "one", "one": "one", "one\r\n": "one", " a b \n": " a b ", "": ""} {
		p, err := readPassphrase(&say.Streams{In: strings.NewReader(text)}, "-")
		if err != nil || string(p.Reveal()) != want {
			t.Errorf("%q: %q, %v", text, p.Reveal(), err)
		}
	}
}
