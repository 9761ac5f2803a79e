package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shown returns a key, or another name that somebody else chose, for use within a line for
// people: as it is, or quoted as in Go if it contains unprintable characters or looks quoted.
// So no key can move the cursor, reverse the line or pass for another line.
func shown(name string) string {
	if utf8.ValidString(name) && !strings.HasPrefix(name, `"`) && !strings.ContainsFunc(name, unprintable) {
		return name
	}
	return strconv.Quote(name)
}

// legible returns a text, such as an error that quotes a node or a file name, for use within a
// line: it escapes everything unprintable, including line ends, as in Go.
func legible(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n == 1 || unprintable(r) {
			quoted := strconv.Quote(text[:n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(text[:n])
		}
		text = text[n:]
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// severalLines is an error whose line ends are the command's own: the names in it went through
// shown.
type severalLines string

func (e severalLines) Error() string { return string(e) }

// linesOf returns an error for people. Only joined errors and severalLines have more than one
// line.
func linesOf(err error) []string {
	text := err.Error()
	switch e := err.(type) {
	case severalLines:
		lines := strings.Split(text, "\n")
		for i, line := range lines {
			lines[i] = legible(line)
		}
		return lines
	case interface{ Unwrap() []error }:
		if text != errors.Join(e.Unwrap()...).Error() {
			break
		}
		var lines []string
		for _, one := range e.Unwrap() {
			lines = append(lines, linesOf(one)...)
		}
		return lines
	case interface{ Unwrap() error }:
		if inner := e.Unwrap(); inner != nil && strings.HasSuffix(text, inner.Error()) {
			lines := linesOf(inner)
			lines[0] = legible(strings.TrimSuffix(text, inner.Error())) + lines[0]
			return lines
		}
	}
	return []string{legible(text)}
}
