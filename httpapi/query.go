package httpapi

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/Focinfi/oncekv/kvstore"
)

// parameters is a parsed query string: each name at most once, every name
// one that the route takes.
type parameters struct {
	given []parameter
}

type parameter struct{ name, value string }

// parseQuery reads a raw query strictly: a malformed, unknown or repeated parameter is
// refused, never ignored, so that a misspelt ?on-conflict cannot become another request.
// '+' is a space. ';' separates nothing and must be escaped.
func parseQuery(raw string, allowed ...string) (parameters, error) {
	var p parameters
	if raw == "" {
		return p, nil
	}
	for part := range strings.SplitSeq(raw, "&") {
		one, err := parseParameter(part, allowed)
		if err != nil {
			return p, err
		}
		if _, twice := p.lookup(one.name); twice {
			return p, invalid("parameter %q is given twice; give it once", one.name)
		}
		p.given = append(p.given, one)
	}
	return p, nil
}

// noQuery is for routes that take no parameters.
func noQuery(do handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if _, err := parseQuery(r.URL.RawQuery); err != nil {
			return err
		}
		return do(w, r)
	}
}

func parseParameter(part string, allowed []string) (parameter, error) {
	if part == "" {
		return parameter{}, invalid("the query string has an empty parameter; remove the extra %q", "&")
	}
	if strings.Contains(part, ";") {
		return parameter{}, invalid("the query string has a bare %q; write it as %%3B", ";")
	}
	rawName, rawValue, _ := strings.Cut(part, "=")
	name, err := url.QueryUnescape(rawName)
	if err != nil {
		return parameter{}, invalid("the query string is malformed: %v", err)
	}
	if !slices.Contains(allowed, name) {
		takes := "none"
		if len(allowed) > 0 {
			takes = `"` + strings.Join(allowed, `", "`) + `"`
		}
		return parameter{}, invalid("unknown parameter %q; this request takes %s", name, takes)
	}
	value, err := url.QueryUnescape(rawValue)
	if err != nil {
		return parameter{}, invalid("parameter %q is malformed: %v", name, err)
	}
	return parameter{name, value}, nil
}

// lookup returns a parameter's value and whether it was given.
func (p parameters) lookup(name string) (string, bool) {
	for _, one := range p.given {
		if one.name == name {
			return one.value, true
		}
	}
	return "", false
}

// word reports whether a parameter was given; its only value may be want.
func (p parameters) word(name, want string) (bool, error) {
	value, given := p.lookup(name)
	if given && value != want {
		return false, invalid("parameter %q is %q; the only value it takes is %q", name, value, want)
	}
	return given, nil
}

// truth reads a boolean parameter; absent is false.
func (p parameters) truth(name string) (bool, error) {
	switch value, given := p.lookup(name); {
	case !given, value == "false":
		return false, nil
	case value == "true":
		return true, nil
	default:
		return false, invalid("parameter %q is %q; it takes true or false", name, value)
	}
}

// number reads a whole number of at least 1 and at most max; absent is otherwise.
func (p parameters) number(name string, otherwise, max uint64) (uint64, error) {
	value, given := p.lookup(name)
	if !given {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n == 0 || n > max {
		return 0, invalid("parameter %q is %q; it takes a whole number from 1 to %d", name, value, max)
	}
	return n, nil
}

// history reads the parameter "history"; absent is zero.
func (p parameters) history() (kvstore.HistoryID, error) {
	value, given := p.lookup("history")
	if !given {
		return kvstore.HistoryID{}, nil
	}
	return parseHistory(`parameter "history"`, value)
}

func parseHistory(name, text string) (kvstore.HistoryID, error) {
	id, err := kvstore.ParseHistoryID(text)
	if err != nil || id.IsZero() {
		return kvstore.HistoryID{}, invalid("%s is %.40q; it takes the 32 hex digits that Oncekv-History has in an answer", name, text)
	}
	return id, nil
}

// prefix reads the parameter "prefix", which may be empty.
func (p parameters) prefix() (kvstore.Key, error) {
	value, _ := p.lookup("prefix")
	prefix := kvstore.Key(value)
	if prefix != "" && prefix.Validate() != nil {
		return "", invalid("no key can begin with the given %q (%d bytes): keys have at most %d bytes, none of them NUL", "prefix", len(prefix), kvstore.MaxKeyBytes)
	}
	return prefix, nil
}

func consistencyOf(q parameters) (kvstore.Consistency, error) {
	local, err := q.word("consistency", "local")
	if local {
		return kvstore.Local, err
	}
	return kvstore.Linearizable, err
}
