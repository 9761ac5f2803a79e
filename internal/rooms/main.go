// Rooms counts the references between the files of a package, and those that run upward. A
// package's doc.go may list its files from top to bottom, in lines of comment such as
//
//	get.go getjson.go  reads of one value
//
// A file may then use only what files further down declare; names on one line count from
// left to right. Without a list, rooms judges the best order that it finds.
//
//	go run ./internal/rooms                  # every package that lists its files
//	go run ./internal/rooms -v ./httpapi     # names what runs upward
//	go run ./internal/rooms -dot ./httpapi | dot -Tsvg > httpapi.svg
//
// A reference is a pair of files, the first of which uses, once or many times, something
// that the second declares: a function, a type (receivers included), a method, a field, a
// variable. Tests do not count, and files that are not built on this system count only as
// lines.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/Focinfi/oncekv/internal/broken"
)

func main() {
	flags := flag.NewFlagSet("rooms", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: rooms [-v] [-dot] [DIRECTORY…]\nWithout a directory: every package whose doc.go lists its files.")
		flags.PrintDefaults()
	}
	dot := flags.Bool("dot", false, "write a graph for Graphviz instead of the table")
	verbose := flags.Bool("v", false, "name the references that run upward, and the best order found")
	flags.Parse(os.Args[1:])
	if err := run(os.Stdout, flags.Args(), *dot, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "rooms:", err)
		os.Exit(1)
	}
}

func run(w io.Writer, args []string, dot, verbose bool) error {
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	root, err := moduleRoot(here)
	if err != nil {
		return err
	}
	var dirs []string
	for _, arg := range args {
		dir, err := filepath.Abs(arg)
		if err == nil {
			dir, err = filepath.Rel(root, dir)
		}
		if err != nil {
			return err
		}
		dirs = append(dirs, dir)
	}
	if len(args) == 0 {
		if dirs, err = listing(root); err != nil {
			return err
		}
	}
	houses, err := load(root, dirs)
	if err != nil {
		return err
	}
	for _, h := range houses {
		switch {
		case dot:
			h.graph(w)
		case verbose:
			h.explain(w)
		}
	}
	if dot {
		return nil
	}
	return table(w, houses)
}

// moduleRoot returns the nearest directory above dir that has a go.mod.
func moduleRoot(dir string) (string, error) {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("no go.mod in %s or above it", dir)
		}
	}
}

// load reads the packages in dirs, which are below root.
func load(root string, dirs []string) ([]*house, error) {
	if len(dirs) == 0 {
		return nil, nil
	}
	module, err := broken.LoadModule(root, dirs...)
	if err != nil {
		return nil, err
	}
	var houses []*house
	for _, dir := range dirs {
		h, err := newHouse(root, module.Package(dir))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
		houses = append(houses, h)
	}
	return houses, nil
}

// table writes a line for every package.
func table(w io.Writer, houses []*house) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "package\tfiles\tlines\treferences\tupward as listed\tupward in the best order found\t")
	for _, h := range houses {
		listed := "no list"
		if h.listed != nil {
			listed = fmt.Sprint(len(h.upward(h.listed)))
		}
		fmt.Fprintf(t, "%s\t%d\t%d\t%d\t%s\t%d\t\n", h.dir, h.files, h.lines, len(h.references), listed, len(h.upward(h.best)))
	}
	return t.Flush()
}

// order returns the listed order, or the best one found.
func (h *house) order() []string {
	if h.listed != nil {
		return h.listed
	}
	return h.best
}

// explain names the upward references.
func (h *house) explain(w io.Writer) {
	from := "as doc.go lists its files"
	if h.listed == nil {
		from = "in the best order found, for doc.go lists none"
	}
	fmt.Fprintf(w, "%s, %s:\n", h.dir, from)
	for _, r := range h.upward(h.order()) {
		fmt.Fprintf(w, "  %s uses %s of %s\n", r.from, strings.Join(h.references[r], ", "), r.to)
	}
	fmt.Fprintf(w, "  best order found: %s\n", strings.Join(h.best, " "))
}

// graph writes the package as a graph, with upward references in red.
func (h *house) graph(w io.Writer) {
	fmt.Fprintf(w, "digraph %q {\n\trankdir=TB; node [shape=box];\n", h.dir)
	for _, name := range h.order() {
		fmt.Fprintf(w, "\t%q;\n", name)
	}
	upward := h.upward(h.order())
	for _, r := range h.sorted() {
		style := ""
		if slices.Contains(upward, r) {
			style = " [color=red, constraint=false]"
		}
		fmt.Fprintf(w, "\t%q -> %q%s;\n", r.from, r.to, style)
	}
	fmt.Fprintln(w, "}")
}
