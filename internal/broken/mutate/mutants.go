package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/Focinfi/oncekv/internal/broken"
)

// kind is a way to break a piece of the program.
type kind string

const (
	negated  kind = "negated"   // a condition is the opposite
	never    kind = "never"     // a branch is not taken, whatever its condition says
	ignored  kind = "ignored"   // the same, of an error's branch
	omitted  kind = "omitted"   // something is not saved, synced, committed or removed
	boundary kind = "boundary"  // < is <=, and the other way round
	any_     kind = "*"         // in a list: every kind
	anyText       = "*"         // in a list: every place in the function
	textMax       = 120         // of a mutant's text
	callIf        = "mutantIf(" // what instrumented source calls
	callOn        = "mutantOn("
	callOmit      = "mutantOmit("
)

var kinds = []kind{negated, omitted, ignored, never, boundary}

// mutant is one broken program. All are compiled into one, and the environment selects one.
type mutant struct {
	id       int // from 1 on
	kind     kind
	dir      string // of the package, below the module's root
	function string
	text     string // the condition and where its error comes from, or the call; on one line
	at       token.Position
}

func (m *mutant) String() string {
	return fmt.Sprintf("%s:%d\t%s\t%s\t%s", m.at.Filename, m.at.Line, m.function, m.kind, m.text)
}

// writes matches the names of functions that make something durable, pass it to one that does,
// or remove something durable.
var writes = regexp.MustCompile(`^((?i:save|sync|fsync|fdatasync|flush|commit|update|persist|rename|release)|keepProgress|writeApplied|writeIndexed|delete[A-Z]|Delete|remove[A-Z]|Remove)`)

// mutate finds the mutants of a package, numbered from first, and returns the sources that
// contain all of them, by name below the module's root.
func mutate(p *broken.Package, first int) ([]*mutant, map[string][]byte, error) {
	info, err := p.Check(nil)
	if err != nil {
		return nil, nil, err
	}
	var all []*mutant
	sources := map[string][]byte{}
	for _, s := range p.Sources {
		if strings.HasSuffix(s.Name, "_test.go") {
			continue
		}
		f := &finder{pkg: p, info: info, source: s, next: first + len(all)}
		ast.Inspect(s.File, f.visit)
		all = append(all, f.mutants...)
		sources[s.Name] = f.edited()
	}
	return all, sources, nil
}

// finder looks for mutants in one file.
type finder struct {
	pkg    *broken.Package
	info   *types.Info
	source *broken.Source
	next   int

	stack   []ast.Node
	mutants []*mutant
	before  []edit // in the order of the walk: outer ones first
	after   []edit
}

// edit is text to insert.
type edit struct {
	offset int
	text   string
}

func (f *finder) visit(n ast.Node) bool {
	if n == nil {
		f.stack = f.stack[:len(f.stack)-1]
		return true
	}
	f.look(n)
	f.stack = append(f.stack, n)
	return true
}

func (f *finder) look(n ast.Node) {
	switch n := n.(type) {
	case *ast.IfStmt:
		if !f.onlyTells(n.Body.List) || n.Else != nil {
			f.condition(n.Cond, f.origin(n))
		}
	case *ast.SwitchStmt:
		if n.Tag != nil {
			return
		}
		for _, c := range n.Body.List {
			if clause := c.(*ast.CaseClause); !f.onlyTells(clause.Body) {
				for _, cond := range clause.List {
					f.condition(cond, "")
				}
			}
		}
	case *ast.BinaryExpr:
		f.bound(n)
	case *ast.CallExpr:
		f.write(n)
	}
}

// add makes a mutant of n.
func (f *finder) add(k kind, n ast.Node, origin string) int {
	text := strings.Join(strings.Fields(f.text(n)+origin), " ")
	if len(text) > textMax {
		text = text[:textMax]
	}
	f.mutants = append(f.mutants, &mutant{
		id: f.next, kind: k, dir: filepath.Dir(f.source.Name), function: f.function(), text: text, at: f.pkg.Position(n.Pos()),
	})
	f.next++
	return f.next - 1
}

func (f *finder) text(n ast.Node) string {
	return string(f.source.Text[f.pkg.Position(n.Pos()).Offset:f.pkg.Position(n.End()).Offset])
}

func (f *finder) function() string {
	for _, n := range f.stack {
		if d, ok := n.(*ast.FuncDecl); ok {
			if d.Recv == nil {
				return d.Name.Name
			}
			return strings.TrimPrefix(types.ExprString(d.Recv.List[0].Type), "*") + "." + d.Name.Name
		}
	}
	return "-" // of a variable
}

// wrap puts text around n.
func (f *finder) wrap(n ast.Node, before, after string) {
	f.before = append(f.before, edit{f.pkg.Position(n.Pos()).Offset, before})
	f.after = append(f.after, edit{f.pkg.Position(n.End()).Offset, after})
}

// origin tells the error checks of a function apart, by where the error comes from: the same
// statement or the one before.
func (f *finder) origin(n *ast.IfStmt) string {
	switch {
	case !f.isErrorCheck(n.Cond):
		return ""
	case n.Init != nil:
		return " of " + f.text(n.Init)
	}
	var list []ast.Stmt
	switch parent := f.stack[len(f.stack)-1].(type) {
	case *ast.BlockStmt:
		list = parent.List
	case *ast.CaseClause:
		list = parent.Body
	case *ast.CommClause:
		list = parent.Body
	}
	i := slices.Index(list, ast.Stmt(n))
	if i < 1 {
		return ""
	}
	switch list[i-1].(type) {
	case *ast.AssignStmt, *ast.DeclStmt:
		return " of " + f.text(list[i-1])
	}
	return ""
}

// condition makes two mutants of a condition.
func (f *finder) condition(cond ast.Expr, origin string) {
	id := f.add(negated, cond, origin)
	if f.isErrorCheck(cond) {
		f.add(ignored, cond, origin)
	} else {
		f.add(never, cond, origin)
	}
	f.wrap(cond, fmt.Sprintf("%s%d, bool(", callIf, id), "))")
}

// isErrorCheck reports whether a condition checks for an error.
func (f *finder) isErrorCheck(cond ast.Expr) bool {
	b, ok := cond.(*ast.BinaryExpr)
	return ok && b.Op == token.NEQ && isError(f.info.TypeOf(b.X)) && f.info.Types[b.Y].IsNil()
}

func isError(t types.Type) bool {
	return t != nil && types.Identical(t, types.Universe.Lookup("error").Type())
}

// bound makes a mutant of a comparison, if its sides may be evaluated twice.
func (f *finder) bound(b *ast.BinaryExpr) {
	if !f.conditional() || !f.pure(b.X) || !f.pure(b.Y) || f.info.Types[b].Value != nil {
		return
	}
	equal := fmt.Sprintf("(%s) == (%s)", f.text(b.X), f.text(b.Y))
	switch b.Op {
	case token.LSS, token.GTR:
		f.wrap(b, "(", fmt.Sprintf(" || %s%d) && %s)", callOn, f.add(boundary, b, ""), equal))
	case token.LEQ, token.GEQ:
		f.wrap(b, "(", fmt.Sprintf(" && !(%s%d) && %s))", callOn, f.add(boundary, b, ""), equal))
	}
}

// conditional reports whether the node is in the condition of a mutant.
func (f *finder) conditional() bool {
	for _, n := range slices.Backward(f.stack) {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if n.Op != token.LAND && n.Op != token.LOR {
				return false
			}
		case *ast.ParenExpr:
		case *ast.UnaryExpr:
			if n.Op != token.NOT {
				return false
			}
		case *ast.IfStmt:
			return true
		case *ast.CaseClause:
			return true
		default:
			return false
		}
	}
	return false
}

// pure reports whether an expression has no side effect.
func (f *finder) pure(e ast.Expr) bool {
	ok := true
	ast.Inspect(e, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncLit:
			ok = false
		case *ast.UnaryExpr:
			ok = ok && n.Op != token.ARROW
		case *ast.CallExpr:
			called := f.info.Types[n.Fun]
			ok = ok && (called.IsType() || called.IsBuiltin())
		}
		return ok
	})
	return ok
}

// write makes a mutant of a call that makes something durable.
func (f *finder) write(call *ast.CallExpr) {
	if !writes.MatchString(called(call)) || len(f.stack) < 2 {
		return
	}
	switch parent := f.stack[len(f.stack)-1].(type) {
	case *ast.DeferStmt, *ast.GoStmt:
		return
	case *ast.ExprStmt:
		switch f.stack[len(f.stack)-2].(type) {
		case *ast.BlockStmt, *ast.CaseClause, *ast.CommClause:
			f.wrap(parent, fmt.Sprintf("if !%s%d) { ", callOn, f.add(omitted, call, "")), " }")
		}
		return
	}
	if isError(f.info.TypeOf(call)) {
		f.wrap(call, fmt.Sprintf("%s%d, func() error { return ", callOmit, f.add(omitted, call, "")), " })")
	}
}

// called returns the name of the called function.
func called(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		return fun.Sel.Name
	}
	return ""
}

// onlyTells reports whether statements only log or count.
func (f *finder) onlyTells(body []ast.Stmt) bool {
	for _, s := range body {
		e, ok := s.(*ast.ExprStmt)
		if !ok {
			return false
		}
		call, ok := e.X.(*ast.CallExpr)
		if !ok {
			return false
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || !f.tells(sel) {
			return false
		}
	}
	return len(body) > 0
}

func (f *finder) tells(sel *ast.SelectorExpr) bool {
	if t := f.info.TypeOf(sel.X); t != nil && t.String() == "*log/slog.Logger" {
		return true
	}
	return strings.Contains(types.ExprString(sel.X), "counters.")
}

// edited returns the source with all insertions.
func (f *finder) edited() []byte {
	// In front of a position outer insertions come first, behind it inner ones. What ends at a
	// position is written before what begins there.
	slices.Reverse(f.after)
	all := slices.Concat(f.after, f.before)
	slices.SortStableFunc(all, func(a, b edit) int { return a.offset - b.offset })
	var out []byte
	at := 0
	for _, e := range all {
		out = append(out, f.source.Text[at:e.offset]...)
		out = append(out, e.text...)
		at = e.offset
	}
	return append(out, f.source.Text[at:]...)
}

// support returns the source that is added to each package. It records the mutants that were
// reached in a file mapped into memory, which also works for child processes and for processes
// that are killed.
func support(name string, mutants int) []byte {
	return fmt.Appendf(nil, `package %s

import (
	"os"
	"strconv"
	"syscall"
)

var mutantActive, mutantReached = mutantStart()

func mutantStart() (active int, reached []byte) {
	active, _ = strconv.Atoi(os.Getenv(%q))
	if path := os.Getenv(%q); path != "" {
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			panic(err)
		}
		if reached, err = syscall.Mmap(int(file.Fd()), 0, %d, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED); err != nil {
			panic(err)
		}
	}
	return active, reached
}

func mutantOn(id int) bool {
	if mutantReached != nil {
		mutantReached[id] = 1
	}
	return id == mutantActive
}

func mutantIf(id int, cond bool) bool {
	if mutantReached != nil {
		mutantReached[id] = 1
		if cond {
			mutantReached[id+1] = 1
		}
	}
	return cond != (id == mutantActive) && id+1 != mutantActive
}

func mutantOmit(id int, call func() error) error {
	if mutantOn(id) {
		return nil
	}
	return call()
}

var _, _, _ = mutantOn, mutantIf, mutantOmit
`, name, activeVariable, reachedVariable, mutants+1)
}

const (
	activeVariable  = "ONCEKV_MUTANT"
	reachedVariable = "ONCEKV_MUTANTS_REACHED"
)
