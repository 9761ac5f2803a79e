package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/Focinfi/oncekv/kvstore"
)

// Paths that several files go by.
const (
	pathKey      = "/key/"
	pathKeep     = "/keep/"
	pathTwin     = "/key" // ?key=…
	pathKeys     = "/keys"
	pathManyGets = "/keys/get"
	pathChanges  = "/changes"

	pathAPI = "/api" // of an admin: what it forwards is below

	// What probes ask, by whatever name leads to a node.
	pathPing  = "/ping"
	pathLive  = "/livez"
	pathReady = "/readyz"
)

// keyed is a handler of the resource of one key, which gets the query's other
// parameters too, those that it takes.
type keyed func(w http.ResponseWriter, r *http.Request, key kvstore.Key, q parameters) error

// at takes the key from where find finds it.
func (do keyed) at(find finder) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		key, q, err := find(r)
		if err != nil {
			return err
		}
		return do(w, r, key, q)
	}
}

// finder reads a request's query, and finds the key that the request names.
type finder func(r *http.Request) (kvstore.Key, parameters, error)

// inPath finds the key in the path below a prefix.
func inPath(prefix string, takes ...string) finder {
	return func(r *http.Request) (key kvstore.Key, q parameters, err error) {
		if q, err = parseQuery(r.URL.RawQuery, takes...); err == nil {
			key, err = keyInPath(r, prefix)
		}
		return key, q, err
	}
}

// inQuery finds the key in ?key=.
func inQuery(takes ...string) finder {
	takes = append([]string{"key"}, takes...)
	return func(r *http.Request) (key kvstore.Key, q parameters, err error) {
		if q, err = parseQuery(r.URL.RawQuery, takes...); err == nil {
			key, err = keyInQuery(q)
		}
		return key, q, err
	}
}

// keyInPath takes the key from the decoded path. net/http has decoded it
// exactly once and cleaned nothing; chi's own wildcard would be escaped or
// not depending on the bytes (it routes on RawPath when that is set).
func keyInPath(r *http.Request, prefix string) (kvstore.Key, error) {
	key := kvstore.Key(strings.TrimPrefix(r.URL.Path, prefix))
	return key, key.Validate()
}

// keyInQuery takes the key from ?key=, the twin of /key/{key} for clients
// that collapse ".." in paths even when it is escaped.
func keyInQuery(q parameters) (kvstore.Key, error) {
	text, given := q.lookup("key")
	if !given {
		return "", invalid("no key is named; use /key/{key} or /key?key={key}")
	}
	key := kvstore.Key(text)
	return key, key.Validate()
}

// locationOf returns the path at which a key is read. Keys that URL parsers
// would collapse get the query form.
func locationOf(key kvstore.Key) string {
	if collapses(string(key)) {
		return pathTwin + "?key=" + url.QueryEscape(string(key))
	}
	var b strings.Builder
	b.WriteString(pathKey)
	for i := range len(key) {
		if c := key[i]; plainInPath(c) {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// collapses reports whether a URL parser may rewrite the key as a path.
func collapses(key string) bool {
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "." || segment == ".." {
			return true
		}
	}
	return false
}

func plainInPath(c byte) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		return true
	}
	return strings.IndexByte("-._~/!@:,=", c) >= 0
}
