package main

import (
	"path"
	"strings"
)

// exclusion is one pattern of --exclude, as in rsync and git. It matches a path relative to
// the imported directory, with slashes:
//
//   - without a slash, or with one only at its end, it matches a name at any depth;
//     otherwise it matches from the imported directory on;
//   - with a slash at its end it matches only directories;
//   - *, ? and [...] match within a name, ** any number of names, and \ quotes the
//     next character.
//
// Excluding a directory excludes everything in it.
type exclusion struct {
	names   []string // pattern of each name of the path
	dirOnly bool
}

func parseExclusion(pattern string) (exclusion, error) {
	text := pattern
	e := exclusion{dirOnly: strings.HasSuffix(text, "/")}
	text = strings.TrimSuffix(text, "/")
	anchored := strings.Contains(text, "/")
	text = strings.TrimPrefix(text, "/")
	if text == "" {
		return e, usageErrorf("--exclude %q matches nothing; write a pattern such as *.log, .git/ or build/**", pattern)
	}
	e.names = strings.Split(text, "/")
	if !anchored {
		e.names = append([]string{"**"}, e.names...)
	}
	for _, name := range e.names {
		if _, err := path.Match(name, ""); err != nil {
			return e, usageErrorf("--exclude %q is not a valid pattern: %w", pattern, err)
		}
	}
	return e, nil
}

func (e exclusion) matches(relative string, isDir bool) bool {
	return (isDir || !e.dirOnly) && matchNames(e.names, strings.Split(relative, "/"))
}

func matchNames(pattern, names []string) bool {
	for len(pattern) > 0 {
		if pattern[0] == "**" {
			rest := pattern[1:]
			if len(rest) == 0 {
				return len(names) > 0
			}
			for skip := range len(names) {
				if matchNames(rest, names[skip:]) {
					return true
				}
			}
			return false
		}
		if len(names) == 0 {
			return false
		}
		if ok, err := path.Match(pattern[0], names[0]); err != nil || !ok {
			return false
		}
		pattern, names = pattern[1:], names[1:]
	}
	return len(names) == 0
}
