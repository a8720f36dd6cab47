package arch

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// root is the module as this test sees it.
const root = "../.."

// A source is one Go file of the house, generated ones and tools aside.
type source struct {
	path string // from the root
	dir  string // the package, from the root
	file *ast.File
	set  *token.FileSet
	test bool
}

// house parses every source once.
var house = sync.OnceValues(func() ([]source, error) {
	var all []source
	err := filepath.WalkDir(root, func(at string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := filepath.ToSlash(strings.TrimPrefix(at, root+"/"))
		if d.IsDir() {
			if rel == "bin" || rel == "internal/tools" || d.Name() == "testdata" || at != root && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, at, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if !ast.IsGenerated(file) && !keepsModules(file) {
			all = append(all, source{rel, path.Dir(rel), file, set, strings.HasSuffix(rel, "_test.go")})
		}
		return nil
	})
	return all, err
})

// keepsModules tells whether a file is never built, and only names modules.
func keepsModules(f *ast.File) bool {
	return len(f.Comments) > 0 && f.Comments[0].List[0].Text == "//go:build deps"
}

func sources(t *testing.T) []source {
	t.Helper()
	all, err := house()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (s source) at(n ast.Node) string {
	return s.path + ":" + strconv.Itoa(s.set.Position(n.Pos()).Line)
}

func (s source) imports() (paths []string) {
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// within tells whether pkg is dir or lies below it.
func within(pkg, dir string) bool { return pkg == dir || strings.HasPrefix(pkg, dir+"/") }

// room returns the longest room that holds pkg and the floor it is on.
func room(pkg string) (name string, floor int) {
	floor = -1
	for n, line := range strings.Split(strings.TrimSpace(floors), "\n") {
		for candidate := range strings.FieldsSeq(line) {
			if within(pkg, candidate) && len(candidate) > len(name) {
				name, floor = candidate, n
			}
		}
	}
	return name, floor
}

// ours returns the room of an imported package of this module.
func ours(imported string) (string, bool) {
	return strings.CutPrefix(imported, module+"/")
}

// mayImport says why the package from may not import the package to; "" if it may.
func mayImport(from, to string) string {
	a, high := room(from)
	b, low := room(to)
	switch {
	case high < 0:
		return fmt.Sprintf("%s lives on no floor: name its room in floors.go", from)
	case low < 0:
		return fmt.Sprintf("%s lives on no floor: name its room in floors.go", to)
	case a == b || low < high || slices.Contains(doors[a], b):
		return ""
	case low > high:
		return fmt.Sprintf("%s imports %s, which is above it: move what they share down, or take an interface", from, to)
	}
	return fmt.Sprintf("%s imports its neighbour %s: join them in the assembly through a small interface, or open a door in floors.go", from, to)
}

func TestRoomsImportOnlyLowerFloors(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range sources(t) {
		if _, floor := room(s.dir); floor < 0 {
			t.Errorf("%s: package %s lives on no floor: name its room in floors.go", s.path, s.dir)
			continue
		}
		for _, imported := range s.imports() {
			to, is := ours(imported)
			if why := ""; is && !s.test {
				if why = mayImport(s.dir, to); why != "" && !seen[why] {
					seen[why] = true
					t.Errorf("%s: %s", s.path, why)
				}
			}
		}
	}
}

func TestRoomsAreAcyclic(t *testing.T) {
	edges := map[string]map[string]string{} // from room to room, by a file that does
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			to, is := ours(imported)
			a, _ := room(s.dir)
			b, _ := room(to)
			if !is || s.test || a == b {
				continue
			}
			if edges[a] == nil {
				edges[a] = map[string]string{}
			}
			edges[a][b] = s.path
		}
	}
	const walking, done = 1, 2
	state := map[string]int{}
	var visit func(at string, trail []string)
	visit = func(at string, trail []string) {
		switch trail = append(trail, at); state[at] {
		case done:
			return
		case walking:
			t.Errorf("rooms in a circle: %s", strings.Join(trail[slices.Index(trail, at):], " -> "))
			return
		}
		state[at] = walking
		for _, next := range slices.Sorted(maps.Keys(edges[at])) {
			visit(next, trail)
		}
		state[at] = done
	}
	for _, at := range slices.Sorted(maps.Keys(edges)) {
		visit(at, nil)
	}
}

func TestDoorsAreBetweenNeighboursAndUsed(t *testing.T) {
	for from, tos := range doors {
		for _, to := range tos {
			a, high := room(from)
			b, low := room(to)
			if a != from || b != to || high != low {
				t.Errorf("door %s -> %s: both must be rooms on one floor", from, to)
			}
		}
	}
}

func TestEachLibraryHasOneOwner(t *testing.T) {
	for _, s := range sources(t) {
		for _, imported := range s.imports() {
			for library, rooms := range owners {
				owned := slices.ContainsFunc(strings.Fields(rooms), func(room string) bool { return within(s.dir, room) })
				if within(imported, library) && !owned {
					t.Errorf("%s imports %s: only %s may", s.path, imported, rooms)
				}
			}
		}
	}
}

func TestDecidersArePure(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !slices.Contains(pure, s.dir) {
			continue
		}
		for _, imported := range s.imports() {
			for _, bad := range impure {
				if imported == bad || strings.Contains(bad, ".") && within(imported, bad) {
					t.Errorf("%s imports %s: %s decides, and may neither act nor look", s.path, imported, s.dir)
				}
			}
		}
		for _, use := range clocksAndLots(s) {
			t.Errorf("%s: %s decides: take the time and the lots as arguments", use, s.dir)
		}
	}
}

func TestApplyIsDeterministic(t *testing.T) {
	for _, s := range sources(t) {
		for _, pattern := range deterministic {
			if ok, _ := path.Match(pattern, s.path); !ok || s.test {
				continue
			}
			for _, use := range clocksAndLots(s) {
				t.Errorf("%s: every replica runs this: the proposer writes times and draws into the entry", use)
			}
			if slices.Contains(s.imports(), "log/slog") {
				t.Errorf("%s imports log/slog: apply says what happened by what it returns", s.path)
			}
		}
	}
}

// clocksAndLots lists the uses in a file of the clock and of shared randomness.
func clocksAndLots(s source) (uses []string) {
	bad := map[string]*regexp.Regexp{
		"time":         regexp.MustCompile(`^(Now|Since|Until|Sleep|After|AfterFunc|Tick|NewTimer|NewTicker)$`),
		"math/rand":    regexp.MustCompile(`^(Int|Uint|Float|Perm|Shuffle|Seed|Norm|Exp|Read|N$)`),
		"math/rand/v2": regexp.MustCompile(`^(Int|Uint|Float|Perm|Shuffle|Norm|Exp|N$)`),
	}
	for use, sel := range selectors(s) {
		if re := bad[use.pkg]; re != nil && re.MatchString(use.name) {
			uses = append(uses, s.at(sel)+": "+use.pkg+"."+use.name)
		}
	}
	slices.Sort(uses)
	return uses
}

// A use names an identifier of an imported package.
type use struct{ pkg, name string }

// selectors yields every pkg.Name in a file.
func selectors(s source) func(yield func(use, ast.Node) bool) {
	names := map[string]string{}
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		name := path.Base(p)
		if name == "v2" {
			name = path.Base(path.Dir(p))
		}
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = p
	}
	return func(yield func(use, ast.Node) bool) {
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && names[x.Name] != "" {
				yield(use{names[x.Name], sel.Sel.Name}, sel)
			}
			return true
		})
	}
}

func TestContextsComeFromTheCaller(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || s.file.Name.Name == "main" || within(s.dir, "integration") || strings.HasSuffix(s.dir, "test") {
			continue
		}
		logged := logContexts(s)
		for use, sel := range selectors(s) {
			if use.pkg == "context" && (use.name == "Background" || use.name == "TODO") && ownContexts[s.path] == "" && !logged[sel] {
				t.Errorf("%s: context.%s: take the caller's, or context.WithoutCancel of it with a deadline (or give the reason in floors.go)", s.at(sel), use.name)
			}
		}
	}
}

// logContexts finds the contexts that are only handed to a logger, which waits
// for nothing.
func logContexts(s source) map[ast.Node]bool {
	found := map[ast.Node]bool{}
	ast.Inspect(s.file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		fun, isMethod := call.Fun.(*ast.SelectorExpr)
		first, isCall := call.Args[0].(*ast.CallExpr)
		if isMethod && isCall && slices.Contains([]string{"LogAttrs", "Log", "Enabled"}, fun.Sel.Name) {
			found[first.Fun] = true
		}
		return true
	})
	return found
}

func TestSecretsAreNotStrings(t *testing.T) {
	secret, public := regexp.MustCompile(`(?i)(token|password|[a-z]key)$`), regexp.MustCompile(`(?i)publickey$`)
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			structure, ok := n.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range structure.Fields.List {
				kind, ok := f.Type.(*ast.Ident)
				for _, name := range f.Names {
					if ok && kind.Name == "string" && secret.MatchString(name.Name) && !public.MatchString(name.Name) && notSecrets[s.dir+"."+name.Name] == "" {
						t.Errorf("%s: field %s is a string: make it a sealed.Secret, or give the reason in floors.go", s.at(f), name.Name)
					}
				}
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	said := map[string]string{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		text := s.file.Doc.Text()
		if text != "" && s.file.Name.Name != "main" && !strings.HasPrefix(text, "Package "+s.file.Name.Name+" ") {
			t.Errorf("%s: the package comment must begin with %q", s.path, "Package "+s.file.Name.Name)
		}
		said[s.dir] += text
	}
	for dir, text := range said {
		if text == "" {
			t.Errorf("%s has no package comment: say what it owns, what it leaves to others and what must stay true", dir)
		}
	}
}

func TestNamesSaySomething(t *testing.T) {
	for _, s := range sources(t) {
		if name := path.Base(s.dir); slices.Contains(badNames, name) {
			t.Errorf("%s: a package named %s owns nothing: name it after its noun", s.path, name)
		}
	}
}

func TestNoNakedTodo(t *testing.T) {
	naked := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	numbered := regexp.MustCompile(`\bTODO\(#\d+\):`)
	for _, s := range sources(t) {
		if s.dir == "internal/arch" {
			continue
		}
		for _, group := range s.file.Comments {
			for _, c := range group.List {
				if naked.MatchString(c.Text) && !numbered.MatchString(c.Text) {
					t.Errorf("%s: %s: write TODO(#n): with the number of an issue", s.at(c), c.Text)
				}
			}
		}
	}
}

func TestErrorsDoNotSayFailed(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			fun, ok := call.Fun.(*ast.SelectorExpr)
			text, isText := call.Args[0].(*ast.BasicLit)
			if ok && isText && (fun.Sel.Name == "Errorf" || fun.Sel.Name == "New") &&
				(strings.Contains(text.Value, "failed to") || strings.HasPrefix(text.Value, `"error`)) {
				t.Errorf("%s: %s: an error says what was being done to which thing, then why", s.at(call), text.Value)
			}
			return true
		})
	}
}
