package client

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"github.com/Focinfi/oncekv/api"
)

// readPlainResult reads a result of POST /keys in the very form in which nodes
// write it for a line that was put, some eight times as fast as encoding/json:
//
//	{"key":"…","status":"created","revision":1,"sha256":"…","size":3}
//
// It returns false for every other line; those are decoded as any JSON is.
func readPlainResult(line []byte, a *api.BatchResult) bool {
	r := plainReader{rest: line, ok: utf8.Valid(line)}
	r.skip(`{"key":"`)
	key := r.text()
	r.skip(`,"status":"`)
	status := r.text()
	r.skip(`,"revision":`)
	revision := r.number()
	r.skip(`,"sha256":"`)
	sum := r.text()
	r.skip(`,"size":`)
	size := r.number()
	r.skip(`}`)
	if !r.ok || len(bytes.TrimSpace(r.rest)) > 0 {
		return false
	}
	n := int64(size)
	*a = api.BatchResult{Key: string(key), Revision: revision, SHA256: string(sum), Size: &n}
	switch string(status) {
	case BatchCreated:
		a.Status = BatchCreated
	case BatchUnchanged:
		a.Status = BatchUnchanged
	default:
		return false
	}
	return true
}

// plainReader takes parts off the front of a line. After the first that is not
// there ok is false.
type plainReader struct {
	rest []byte
	ok   bool
}

func (r *plainReader) skip(part string) {
	var found bool
	r.rest, found = bytes.CutPrefix(r.rest, []byte(part))
	r.ok = r.ok && found
}

// text takes the rest of a string without escapes, and its closing quote.
func (r *plainReader) text() []byte {
	for i, c := range r.rest {
		if c == '"' {
			text := r.rest[:i]
			r.rest = r.rest[i+1:]
			return text
		}
		if c == '\\' || c < ' ' {
			break
		}
	}
	r.ok = false
	return nil
}

// number takes digits, 18 at most, as JSON writes an integer.
func (r *plainReader) number() uint64 {
	n := 0
	for n < len(r.rest) && '0' <= r.rest[n] && r.rest[n] <= '9' {
		n++
	}
	if n == 0 || n > 18 || r.rest[0] == '0' && n > 1 {
		r.ok = false
		return 0
	}
	v, _ := strconv.ParseUint(string(r.rest[:n]), 10, 64) // digits only, and few
	r.rest = r.rest[n:]
	return v
}
