package nodehttp_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// makers are what would make a client beside this package: with the environment's
// proxy, with redirects, or to any address.
var makers = map[string][]string{
	"http": {"Client", "Transport", "DefaultClient", "DefaultTransport", "Get", "Head", "Post", "PostForm", "ProxyFromEnvironment"},
	"net":  {"Dial", "DialTimeout", "Dialer", "DialTCP"},
}

// others are the packages that may: the client for programs of users, and tools
// that no node runs.
var others = []string{"internal/nodehttp", "client", "internal/load", "internal/clustertest", "bench"}

// Every client of a node is made here: the program's own files, all of them, name
// no other way to get one. A pointer to what this package made is no way.
func TestSource_MakesClientsHereOnly(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	seen := 0
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if slices.Contains(others, filepath.ToSlash(name)) || e.Name() == "testdata" || e.Name() == "node_modules" || strings.HasPrefix(e.Name(), ".") && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		seen++
		found, err := makersIn(path)
		for _, f := range found {
			t.Errorf("%s: clients of nodes are made by package nodehttp", f)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen < 100 {
		t.Fatalf("only %d files were looked at", seen)
	}
}

func makersIn(path string) (found []string, err error) {
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if star, ok := n.(*ast.StarExpr); ok {
			if _, ok := star.X.(*ast.SelectorExpr); ok {
				return false // a type, *http.Client
			}
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if pkg, ok := sel.X.(*ast.Ident); ok && slices.Contains(makers[pkg.Name], sel.Sel.Name) {
			found = append(found, fmt.Sprintf("%s: %s.%s", files.Position(sel.Pos()), pkg.Name, sel.Sel.Name))
		}
		return true
	})
	return found, nil
}
