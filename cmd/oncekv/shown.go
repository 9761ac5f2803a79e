package main

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// shown is a key, or another name that somebody else chose, as a part of one line
// for people: itself, or quoted as in Go if it holds something that is not to be
// shown, or looks quoted. So nothing that is in a key can move the cursor, turn
// the line round or pass for another line.
func shown(name string) string {
	if utf8.ValidString(name) && !strings.HasPrefix(name, `"`) && !strings.ContainsFunc(name, unprintable) {
		return name
	}
	return strconv.Quote(name)
}

// legible is a text, such as an error with what a node or a file name says in it,
// as a part of one line: everything that is not to be shown, line ends too, is
// escaped as in Go.
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

// severalLines is an error whose line ends are the command's own: names in it went
// through shown.
type severalLines string

func (e severalLines) Error() string { return string(e) }

// linesOf is an error for people. Only errors that were joined, and severalLines,
// have more than one line.
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
