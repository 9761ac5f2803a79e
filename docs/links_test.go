// Package docs_test checks the documents: that links lead somewhere, and that README
// leads to each of them.
package docs_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

var (
	code    = regexp.MustCompile("(?s)\n```.*?\n```|`[^`\n]*`")
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	defined = regexp.MustCompile(`(?m)^\[[^\]]+\]: (\S+)$`)
	used    = regexp.MustCompile(`\]\[([^\]]+)\]`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// documents are the files that link to one another, as paths from here.
func documents(t *testing.T) []string {
	t.Helper()
	here, err := filepath.Glob("*.md")
	if err != nil || len(here) == 0 {
		t.Fatalf("documents: %q, %v", here, err)
	}
	return append(here, "../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md")
}

func read(t *testing.T, document string) string {
	t.Helper()
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// anchors are the names that GitHub gives the headings of a document.
func anchors(document string) []string {
	var names []string
	for _, m := range heading.FindAllStringSubmatch(code.ReplaceAllStringFunc(document, withoutFences), -1) {
		names = append(names, strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, m[1]))
	}
	return names
}

// withoutFences drops blocks of code, where a # begins a comment, and keeps words.
func withoutFences(s string) string {
	if strings.HasPrefix(s, "\n") {
		return ""
	}
	return s
}

func TestLinks(t *testing.T) {
	for _, document := range documents(t) {
		text := code.ReplaceAllString(read(t, document), "")
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target := m[1]
			if strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://") {
				continue
			}
			path, anchor, hasAnchor := strings.Cut(target, "#")
			if path == "" {
				path = document
			} else {
				path = filepath.Join(filepath.Dir(document), path)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s: %v", document, target, err)
			} else if hasAnchor && !slices.Contains(anchors(read(t, path)), anchor) {
				t.Errorf("%s links to %s, where no heading has that name", document, target)
			}
		}
	}
}

// A link by name, such as a source in a table, has an address, and each address is used.
func TestLinks_ByName(t *testing.T) {
	for _, document := range documents(t) {
		text := code.ReplaceAllString(read(t, document), "")
		var names []string
		for _, m := range used.FindAllStringSubmatch(text, -1) {
			names = append(names, m[1])
			if !strings.Contains(text, "\n["+m[1]+"]: ") {
				t.Errorf("%s has no address for [%s]", document, m[1])
			}
		}
		for _, m := range defined.FindAllString(text, -1) {
			name, _, _ := strings.Cut(strings.TrimPrefix(m, "["), "]")
			if !slices.Contains(names, name) {
				t.Errorf("%s does not use [%s]", document, name)
			}
		}
	}
}

// README's index has every document.
func TestREADME_Index(t *testing.T) {
	_, index, found := strings.Cut(read(t, "../README.md"), "\n## I want to …\n")
	if !found {
		t.Fatal("README has no index")
	}
	for _, document := range documents(t) {
		name := strings.TrimPrefix(document, "../")
		if name == document {
			name = "docs/" + document
		}
		if name != "README.md" && !strings.Contains(index, "]("+name+")") {
			t.Errorf("README's index lacks %s", name)
		}
	}
}
