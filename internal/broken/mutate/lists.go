package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// entry is a line of a list. It names mutants by what they are, not by position, so that it
// survives when lines move.
type entry struct {
	dir, function, text string
	kind                kind
	note                string // why it may live, or what kills it
}

// readList reads a list. Its lines have five fields separated by tabs: directory, function,
// kind, text, and a note. Kind and text may be *, which means all. # begins a comment.
func readList(path string) ([]entry, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []entry
	number := 0
	for line := range strings.Lines(string(raw)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "\t")
		if len(f) != 5 {
			return nil, fmt.Errorf("%s:%d: %d fields with tabs between them, not 5", path, number, len(f))
		}
		all = append(all, entry{dir: f[0], function: f[1], kind: kind(f[2]), text: f[3], note: f[4]})
	}
	return all, nil
}

func (e *entry) names(m *mutant) bool {
	return e.dir == m.dir && e.function == m.function && (e.kind == any_ || e.kind == m.kind) && (e.text == anyText || e.text == m.text)
}

// rotten returns an error if an entry names no mutant.
func rotten(list []entry, all []*mutant) error {
	for _, e := range list {
		if !slices.ContainsFunc(all, e.names) {
			return fmt.Errorf("there is no mutant %s %s %s %q any more: mend the list", e.dir, e.function, e.kind, e.text)
		}
	}
	return nil
}
