package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/internal/broken"
)

// house is a package: its files, and which uses which.
type house struct {
	dir    string   // below the module's root
	files  int      // of Go, without tests
	lines  int      // in them
	listed []string // the files as doc.go lists them, from top to bottom; nil: it lists none
	best   []string // the order with the fewest upward references that was found

	references map[reference][]string // with the names that are used, sorted
}

// reference means that one file uses another.
type reference struct{ from, to string }

func newHouse(root string, p *broken.Package) (*house, error) {
	h := &house{dir: p.Dir, references: map[reference][]string{}}
	if err := h.measure(filepath.Join(root, p.Dir)); err != nil {
		return nil, err
	}
	if err := h.refer(p); err != nil {
		return nil, err
	}
	built := map[string]bool{}
	for _, s := range p.Sources {
		if name := filepath.Base(s.Name); !isTest(name) {
			built[name] = true
		}
	}
	var err error
	if h.listed, err = roomsOf(filepath.Join(root, p.Dir)); err != nil {
		return nil, err
	}
	if h.listed != nil {
		if err := h.complete(filepath.Join(root, p.Dir), built); err != nil {
			return nil, err
		}
	}
	h.best = h.arrange(slices.Sorted(maps.Keys(built)))
	return h, nil
}

func isTest(name string) bool { return strings.HasSuffix(name, "_test.go") }

// measure counts files and lines.
func (h *house) measure(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return err
	}
	for _, name := range names {
		if isTest(name) {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		h.files++
		h.lines += bytes.Count(text, []byte("\n"))
	}
	return nil
}

// refer finds the references.
func (h *house) refer(p *broken.Package) error {
	info, err := p.Check(nil)
	if err != nil {
		return err
	}
	names := map[reference]map[string]bool{}
	for identifier, object := range info.Uses {
		if object.Pkg() == nil || object.Pkg().Path() != p.Path || !object.Pos().IsValid() {
			continue
		}
		r := reference{filepath.Base(p.Position(identifier.Pos()).Filename), filepath.Base(p.Position(object.Pos()).Filename)}
		if r.from == r.to || isTest(r.from) || isTest(r.to) {
			continue
		}
		if names[r] == nil {
			names[r] = map[string]bool{}
		}
		names[r][object.Name()] = true
	}
	for r, used := range names {
		h.references[r] = slices.Sorted(maps.Keys(used))
	}
	return nil
}

// complete checks the list against the files. doc.go declares nothing and need not be
// listed.
func (h *house) complete(dir string, built map[string]bool) error {
	seen := map[string]bool{"doc.go": true}
	for _, name := range h.listed {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("doc.go lists %s, which is not there", name)
		}
		if seen[name] {
			return fmt.Errorf("doc.go lists %s twice", name)
		}
		seen[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(built)) {
		if !seen[name] {
			return fmt.Errorf("doc.go lists files, but not %s", name)
		}
	}
	return nil
}

// roomsOf returns the files listed in dir's doc.go, nil if it lists none.
func roomsOf(dir string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, "doc.go"), nil, parser.ParseComments|parser.PackageClauseOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || file.Doc == nil {
		return nil, err
	}
	var names []string
	for _, comment := range file.Doc.List {
		line, ok := strings.CutPrefix(comment.Text, "//\t")
		if !ok || strings.HasPrefix(line, " ") { // the line before goes on
			continue
		}
		for _, word := range strings.Fields(line) {
			word = strings.TrimSuffix(word, ",")
			if !strings.HasSuffix(word, ".go") {
				break
			}
			names = append(names, word)
		}
	}
	return names, nil
}

// listing returns the directories below root whose packages list their files.
func listing(root string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch name := entry.Name(); {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (name == "testdata" || name == "node_modules" || name[0] == '.' || name[0] == '_'):
			return fs.SkipDir
		case name != "doc.go":
			return nil
		}
		names, err := roomsOf(filepath.Dir(path))
		if err != nil || names == nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		dirs = append(dirs, dir)
		return err
	})
	return dirs, err
}

// sorted returns all references sorted by name.
func (h *house) sorted() []reference {
	return slices.SortedFunc(maps.Keys(h.references), func(a, b reference) int {
		return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
}

// upward returns the references that run upward in this order. A file that is not listed,
// which can only be doc.go, is above all others.
func (h *house) upward(order []string) []reference {
	at := map[string]int{}
	for i, name := range order {
		at[name] = i + 1
	}
	return slices.DeleteFunc(h.sorted(), func(r reference) bool { return at[r.from] < at[r.to] })
}
