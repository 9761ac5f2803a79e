package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/kvstore"
)

// escaped writes a key into a path the way that escapes least.
func escaped(key string) string {
	var b strings.Builder
	for i := range len(key) {
		if c := key[i]; c > ' ' && c < 0x7f && !strings.ContainsRune("%?#", rune(c)) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String()
}

// escapedFully escapes every byte, slashes included.
func escapedFully(key string) string {
	var b strings.Builder
	for i := range len(key) {
		fmt.Fprintf(&b, "%%%02X", key[i])
	}
	return b.String()
}

// TestKeys_Exact cites "keys are any bytes, percent-decoded exactly once": raw
// request lines, because clients would normalise them.
func TestKeys_Exact(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"a b", "a+b", "a/b", "a//b", "/a", "//a", "a/../b", "../a", "a/..", "./a", "a/", "a//", "/", "//", "!x@v1.2.3.zip", "ünï/日本", "a?b#c", "a%b", "a%2Fb",
		"a%252Fb", "\x01\xff-latin", ".", "..", "~", "a&b=c;d", `q"uote'`, `\back\slash`, "{name}", "*", "a*", "\r\n", "\x7f", "key/a", "promote",
		strings.Repeat("k", kvstore.MaxKeyBytes), strings.Repeat("\xff", kvstore.MaxKeyBytes),
	} {
		n := newNode(t)
		want(t, n.put("/key/"+escaped(key), "value"), 201)
		if got := string(n.db.lastRequest(t).Key); got != key {
			t.Errorf("%q arrived as %q", key, got)
		}
		for _, target := range []string{
			"/key/" + escaped(key), "/key/" + escapedFully(key), "/%6bey/" + escaped(key), "/key%2f" + escaped(key), "/keep/" + escapedFully(key),
			"/key?key=" + url.QueryEscape(key), "/key?key=" + escapedFully(key), locationOf(kvstore.Key(key)), "http://elsewhere/key/" + escaped(key),
		} {
			got := n.get(target)
			if got.status != 200 || got.body != "value" || got.header.Get("Location") != "" {
				t.Errorf("%q: GET %s is %d %q", key, target, got.status, got.body)
			}
		}
		want(t, n.put("/key?key="+url.QueryEscape(key), "value"), 200)
		want(t, n.put("/keep/"+escapedFully(key), "other"), 200)
	}
}

func TestKeys_QueryPlusIsSpace(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.db.set("a b", "", "space")
	n.db.set("a+b", "", "plus")
	for target, body := range map[string]string{
		"/key?key=a+b": "space", "/key?key=a%20b": "space", "/key?key=a%2Bb": "plus", "/key/a+b": "plus", "/key/a%20b": "space", "/key/a%2bb": "plus",
	} {
		if got := want(t, n.get(target), 200); got.body != body {
			t.Errorf("%s is %q, want %q", target, got.body, body)
		}
	}
}

// TestKeys_BadEscape: net/http answers what it cannot parse by itself.
func TestKeys_BadEscape(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	want(t, n.put("/key/a%zz", "x"), 400)
	n.db.nothingSet(t)
}

func TestLocationOf_CollapsingKeys(t *testing.T) {
	t.Parallel()
	for key, location := range map[kvstore.Key]string{
		"a/..": "/key?key=a%2F..", ".": "/key?key=.", "a/./b": "/key?key=a%2F.%2Fb", "a..b/.c": "/key/a..b/.c", "a//b": "/key/a//b", "!@:,=~": "/key/!@:,=~",
	} {
		if got := locationOf(key); got != location {
			t.Errorf("locationOf(%q) is %q, want %q", key, got, location)
		}
	}
}

// keyEcho notes the key it is asked for.
type keyEcho struct {
	Lister
	key kvstore.Key
}

func (e *keyEcho) History() kvstore.History { return kvstore.History{} }

func (e *keyEcho) Get(_ context.Context, key kvstore.Key, _ kvstore.Consistency) (*kvstore.Value, error) {
	e.key = key
	return kvstore.NewValue(kvstore.Meta{Key: key}, nil), nil
}

func (e *keyEcho) PutMany(context.Context, []kvstore.SmallPut, func(int, kvstore.PutResult, error)) {
}

func (e *keyEcho) GetMany([]kvstore.Key, func(int, *kvstore.Value, error)) {}

func (e *keyEcho) Confirm(context.Context) error { return nil }

func (e *keyEcho) Put(context.Context, kvstore.PutRequest) (kvstore.PutResult, error) {
	return kvstore.PutResult{}, kvstore.ErrClosed
}

// FuzzKeys: any valid key arrives as it is, however it was written into the
// URL; an invalid one is refused.
func FuzzKeys(f *testing.F) {
	for _, key := range []string{"a", "", "a/../b", "a%2fb", "\x00", "+", "a?b", "//", "\xff\xfe", strings.Repeat("k", 1025)} {
		f.Add(key)
	}
	echo := new(keyEcho)
	api := NewDatabase(DatabaseConfig{DB: echo, Cluster: &fakeCluster{}, Registry: &fakeRegistry{}})
	f.Fuzz(func(t *testing.T, key string) {
		for _, target := range []string{
			"/key/" + escaped(key), "/key/" + escapedFully(key), "/keep/" + escaped(key), "/key?key=" + url.QueryEscape(key), locationOf(kvstore.Key(key)),
		} {
			echo.key = ""
			u, err := url.ParseRequestURI(target)
			if err != nil {
				t.Fatalf("%q as %q: %v", key, target, err)
			}
			w := httptest.NewRecorder()
			api.ServeHTTP(w, &http.Request{Method: "GET", URL: u, Header: make(http.Header), Body: http.NoBody})
			switch valid := kvstore.Key(key).Validate() == nil; {
			case valid && (w.Code != 200 || string(echo.key) != key):
				t.Fatalf("%q as %q: status %d, arrived as %q", key, target, w.Code, echo.key)
			case !valid && w.Code != 400:
				t.Fatalf("%q as %q: status %d for an invalid key", key, target, w.Code)
			}
		}
	})
}
