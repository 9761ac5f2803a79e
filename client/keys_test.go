package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// pages serves GET /keys of the given keys, two on a page.
func pages(t *testing.T, keys []string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		at := 0
		if after := r.URL.Query().Get("after"); after != "" {
			fmt.Sscanf(after, "t%d", &at)
		}
		var page api.KeysPage
		for i := at; i < min(at+2, len(keys)); i++ {
			record := Record{Revision: uint64(i + 1), SHA256: digestOf(nil)}
			record.Key, record.KeyBase64 = api.JSONKey(keys[i])
			page.Keys = append(page.Keys, record)
		}
		if at+2 < len(keys) {
			page.Next = fmt.Sprintf("t%d", at+2)
		}
		json.NewEncoder(w).Encode(page)
	}
}

func listed(t *testing.T, c *Client, opts KeysOptions) (keys []string, err error) {
	t.Helper()
	for r, err := range c.Keys(t.Context(), opts) {
		if err != nil {
			return keys, err
		}
		key, err := r.RawKey()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys, nil
}

func TestClient_Keys_Pages(t *testing.T) {
	t.Parallel()
	want := []string{"a", "a/b", "a/c d", "a/ü", "a/\xff\xfe"}
	var queries []string
	serve := pages(t, want)
	u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		serve(w, r)
	})
	c, _ := newClient(t, u)
	got, err := listed(t, c, KeysOptions{Prefix: "a", PageLimit: 2, Local: true})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("listed %q, %v", got, err)
	}
	if !slices.Equal(queries, []string{"consistency=local&limit=2&prefix=a", "after=t2&consistency=local&limit=2&prefix=a", "after=t4&consistency=local&limit=2&prefix=a"}) {
		t.Errorf("queries %q", queries)
	}
}

func TestClient_Keys_FailsOverBetweenPages(t *testing.T) {
	t.Parallel()
	want := []string{"a", "b", "c", "d", "e", "f"}
	serve := pages(t, want)
	var dying atomic.Int64
	flaky, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if dying.Add(1) > 1 {
			w.Write([]byte(`{"keys":[{"key":"zz"`)) // dies in the middle of a page
			panic(http.ErrAbortHandler)
		}
		serve(w, r)
	})
	good, _ := endpoint(t, serve)
	c, _ := newClient(t, flaky, good)
	got, err := listed(t, c, KeysOptions{})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("listed %q, %v", got, err)
	}
}

func TestClient_Keys_StopsWithTheLoop(t *testing.T) {
	t.Parallel()
	u, requests := endpoint(t, pages(t, []string{"a", "b", "c", "d", "e"}))
	c, _ := newClient(t, u)
	for range c.Keys(t.Context(), KeysOptions{}) {
		break
	}
	if requests.Load() != 1 {
		t.Errorf("%d requests for the first key", requests.Load())
	}
}

func TestClient_Keys_RefusesNonsense(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"order":  `{"keys":[{"key":"pb"},{"key":"pa"}]}`,
		"twice":  `{"keys":[{"key":"pa"},{"key":"pa"}]}`,
		"prefix": `{"keys":[{"key":"q"}]}`,
		"base64": `{"keys":[{"key_base64":"?"}]}`,
		"loop":   `{"keys":[],"next":"t"}`,
		"page":   `<html>`,
	} {
		t.Run(name, func(t *testing.T) {
			u, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) { w.Write([]byte(body)) })
			c, _ := newClient(t, u)
			if got, err := listed(t, c, KeysOptions{Prefix: "p"}); !errors.Is(err, ErrServer) {
				t.Errorf("listed %q, %v, want ErrServer", got, err)
			}
		})
	}
}

func TestClient_Keys_RefusedAndUnreachable(t *testing.T) {
	t.Parallel()
	bad, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		problem(w, Problem{Type: api.ProblemInvalid, Status: 400, Detail: "bad limit"})
	})
	c, _ := newClient(t, bad)
	if _, err := listed(t, c, KeysOptions{}); !errors.Is(err, ErrInvalid) || err.Error() != "list keys: bad limit" {
		t.Errorf("%v", err)
	}
	c, _ = newClient(t, deadEndpoint(t))
	c.retryTimeout = time.Nanosecond
	if _, err := listed(t, c, KeysOptions{}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
