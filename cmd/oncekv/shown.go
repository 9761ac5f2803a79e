package main

import (
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
// that keeps its lines and has everything else that is not to be shown escaped as
// in Go.
func legible(text string) string {
	if utf8.ValidString(text) && !strings.ContainsFunc(text, unprintableInText) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && n == 1 || unprintableInText(r) {
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

func unprintableInText(r rune) bool { return r != '\n' && unprintable(r) }
