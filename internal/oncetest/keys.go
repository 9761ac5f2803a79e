package oncetest

import (
	"errors"
	"strings"

	"github.com/Focinfi/oncekv/api"
)

// hardKeys returns keys that something between a user and the disk might change or confuse.
func hardKeys(prefix string) []string {
	var keys []string
	for _, end := range []string{
		"a", "A", "a ", " a", "a/", "a//", "a/b", "a//b", "a/./b", "a/../b", "../a", "..", ".", "...", "/", "//",
		"%", "%2F", "%2f", "%252F", "%zz", "%00", "a%2Fb", "a+b", "a b", "a%20b", "a?b=c", "a&b", "a#b", "a;b", "a:b", `a\b`, "a=b",
		`"`, "'", "<a>", "{}", "*", "~", "é", "e\u0301", "日本", "\u2028", "\ufeff", "\U0001f512",
		"\xff", "\xc3", "\xc3\x28", "\xed\xa0\x80", "\x01", "\x7f", "\t", "\n", "\r\n", "a\r\nb: c", "\x1b[31m", everyByte()[1:],
	} {
		keys = append(keys, prefix+end)
	}
	// The same at the beginning of a key.
	for _, start := range []string{"/", "//", "./", "../", "/../", "%2F", " ", "\xff", "?", "#"} {
		keys = append(keys, start+prefix)
	}
	return keys
}

// everyByte returns the 256 bytes in order.
func everyByte() string {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return string(b)
}

// keysAreBytes: keys with different bytes are different keys, whatever the bytes.
func keysAreBytes(t *trial) {
	keys := hardKeys(t.prefix)
	var won []Record
	for _, key := range keys {
		t.absent(key)
		won = append(won, t.create(Put{Key: key}, "value of "+key))
	}
	for i, key := range keys {
		t.holds(won[i], "value of "+key)
	}
}

// keyLengths: a key has up to 1,024 bytes of any kind.
func keyLengths(t *trial) {
	for _, fill := range []string{"k", "/", "\xff"} {
		long := t.prefix + strings.Repeat(fill, keyBytesMax-len(t.prefix))
		almost := t.create(Put{Key: long[:len(long)-1]}, "shorter")
		won := t.create(Put{Key: long}, "value")
		t.loses(Put{Key: long}, "other", won)
		t.holds(almost, "shorter")
	}
	if _, err := t.store.Stat(t.Context(), "k"); err != nil && !errors.Is(err, api.ErrNotFound) { // others may have set it
		t.Fatalf("stat of a key of one byte: %v", err)
	}
}

// invalidKeys: an empty key, one of more than 1,024 bytes and one with a NUL are refused.
func invalidKeys(t *trial) {
	for _, key := range []string{
		"", t.prefix + strings.Repeat("k", keyBytesMax+1-len(t.prefix)), t.prefix + strings.Repeat("k", 5*keyBytesMax),
		"\x00", "\x00" + t.prefix, t.prefix + "\x00", t.prefix + "a\x00b",
	} {
		t.fails(Put{Key: key}, "value", api.ErrInvalid)
		t.unreadable(key, api.ErrInvalid)
	}
}
