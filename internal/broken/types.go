package broken

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// Module type-checks a module's packages in memory, in a tenth of the time of compiling them.
// It is not safe for concurrent use.
type Module struct {
	fset     *token.FileSet
	packages map[string]*Package // by directory, below the module's root
}

// Package is a package of a Module with its tests.
type Package struct {
	Dir     string // below the module's root
	Path    string
	Sources []*Source

	fset     *token.FileSet
	importer types.Importer
}

// Source is a file of a Package.
type Source struct {
	Name string // below the module's root
	Text []byte
	File *ast.File
}

// listed is a package as `go list` prints it.
type listed struct {
	ImportPath, Export, Dir, ForTest string
	GoFiles                          []string
	ImportMap                        map[string]string
}

// LoadModule reads the packages in dirs, which are below the module's root. Their imports are
// compiled unless Go's build cache has them.
func LoadModule(root string, dirs ...string) (*Module, error) {
	args := []string{"list", "-test", "-deps", "-export", "-json=ImportPath,Export,Dir,ForTest,GoFiles,ImportMap"}
	for _, dir := range dirs {
		args = append(args, "./"+dir)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Stderr = root, os.Stderr
	output, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	var all []listed
	exports := map[string]string{}
	for d := json.NewDecoder(strings.NewReader(string(output))); ; {
		var l listed
		if err := d.Decode(&l); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		all, exports[l.ImportPath] = append(all, l), l.Export
	}
	m := &Module{fset: token.NewFileSet(), packages: map[string]*Package{}}
	for _, dir := range dirs {
		if m.packages[dir], err = m.load(root, dir, all, exports); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// load parses the package in dir, with its tests if there are any.
func (m *Module) load(root, dir string, all []listed, exports map[string]string) (*Package, error) {
	var found *listed
	for i, l := range all {
		path, _, variant := strings.Cut(l.ImportPath, " ")
		within := filepath.Clean(l.Dir) == filepath.Join(root, dir) && !strings.HasSuffix(path, ".test") && !strings.HasSuffix(path, "_test")
		if within && (found == nil || variant && l.ForTest == path) {
			found = &all[i]
		}
	}
	if found == nil {
		return nil, fmt.Errorf("there is no package in %s", dir)
	}
	path, _, _ := strings.Cut(found.ImportPath, " ")
	p := &Package{Dir: dir, Path: path, fset: m.fset}
	p.importer = importer.ForCompiler(m.fset, "gc", func(path string) (io.ReadCloser, error) {
		if mapped, ok := found.ImportMap[path]; ok {
			path = mapped
		}
		return os.Open(exports[path])
	})
	for _, name := range found.GoFiles {
		name = filepath.Join(dir, name)
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(m.fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		p.Sources = append(p.Sources, &Source{name, text, file})
	}
	return p, nil
}

// Package returns the package in dir, which must have been passed to LoadModule.
func (m *Module) Package(dir string) *Package { return m.packages[dir] }

// Position returns a position in the sources.
func (p *Package) Position(at token.Pos) token.Position { return p.fset.Position(at) }

// Check type-checks the package with some files changed or added: text by name, below the
// module's root.
func (p *Package) Check(changed map[string][]byte) (*types.Info, error) {
	var files []*ast.File
	for _, s := range p.Sources {
		if changed[s.Name] == nil {
			files = append(files, s.File)
		}
	}
	for name, text := range changed {
		file, err := parser.ParseFile(p.fset, name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	info := &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Uses: map[*ast.Ident]types.Object{},
		Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	conf := types.Config{Importer: p.importer, Sizes: types.SizesFor("gc", runtime.GOARCH)}
	_, err := conf.Check(p.Path, p.fset, files, info)
	return info, err
}
