package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The markers around a table in a document: its name, and its end. What is between them is
// generated.
const (
	tableBegin = "<!-- table: "
	tableClose = " -->"
	tableEnd   = "<!-- end of table -->"
)

// Where the pictures of a document are, and the prefix of their names.
const (
	picturesDir    = "images"
	picturesPrefix = "bench-"
)

// notMeasured replaces a table without rows.
const notMeasured = "Not measured yet: no result file has it."

// writeDocument regenerates the tables of a document, and the pictures beside it.
func (r *report) writeDocument(path string) error {
	before, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	now, err := r.document(string(before))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := os.WriteFile(path, []byte(now), 0o644); err != nil {
		return err
	}
	return r.writePictures(filepath.Join(filepath.Dir(path), picturesDir), picturesPrefix)
}

// document returns a document with the report's tables between its markers.
func (r *report) document(text string) (string, error) {
	var out strings.Builder
	tables, inside := 0, ""
	number := 0
	for line := range strings.Lines(text) {
		number++
		trimmed := strings.TrimSpace(line)
		name, begins := strings.CutPrefix(trimmed, tableBegin)
		switch {
		case begins && inside != "":
			return "", fmt.Errorf("line %d: table %q begins before %q has ended with %s", number, trimmed, inside, tableEnd)
		case begins:
			t, err := r.tableOf(strings.TrimSuffix(name, tableClose))
			if err != nil {
				return "", fmt.Errorf("line %d: %w", number, err)
			}
			inside = trimmed
			tables++
			fmt.Fprintf(&out, "%s\n\n%s\n", trimmed, t)
		case trimmed == tableEnd && inside == "":
			return "", fmt.Errorf("line %d: a table ends that has not begun", number)
		case trimmed == tableEnd:
			inside = ""
			fmt.Fprintln(&out, tableEnd)
		case inside == "":
			out.WriteString(line)
		}
	}
	switch {
	case inside != "":
		return "", fmt.Errorf("table %q has no end: %s", inside, tableEnd)
	case tables == 0:
		return "", errors.New("there is no table to write: mark one with " + tableBegin + "aims short" + tableClose + " and " + tableEnd)
	}
	return out.String(), nil
}

// tableOf returns a table as Markdown, by its name: "runs", or its content and its part.
func (r *report) tableOf(name string) (string, error) {
	if name == "runs" {
		return r.runTable().markdown(), nil
	}
	kind, part, _ := strings.Cut(name, " ")
	if partNumber(part) < 0 {
		return "", fmt.Errorf("table %q: there is no part %q", name, part)
	}
	switch kind {
	case "aims":
		return figureTable(slices.DeleteFunc(slices.Clone(r.Findings), func(f finding) bool { return f.Part != part || f.aim() == "" })).markdown(), nil
	case "figures":
		return figureTable(slices.DeleteFunc(slices.Clone(r.Findings), func(f finding) bool { return f.Part != part })).markdown(), nil
	case "cases":
		return caseTable(slices.DeleteFunc(slices.Clone(r.Medians), func(m row) bool { return m.Part != part })).markdown(), nil
	}
	return "", fmt.Errorf("table %q: a table is runs, or has aims, figures or cases of a part", name)
}

// markdown returns the table as it stands in a document.
func (t table) markdown() string {
	if len(t.rows) == 0 {
		return notMeasured + "\n"
	}
	var out strings.Builder
	for _, cells := range t.lines() {
		out.WriteString("| " + strings.Join(cells, " | ") + " |\n")
	}
	return out.String()
}
