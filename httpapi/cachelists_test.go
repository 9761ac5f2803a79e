package httpapi

import (
	"net/url"
	"testing"
)

func TestCache_ForwardsLists(t *testing.T) {
	t.Parallel()
	h := newHistory(t)
	h.set("a b", "", "v")
	database := serveHistory(t, h)
	closing := make(chan struct{})
	to, err := url.Parse(database.url)
	if err != nil {
		t.Fatal(err)
	}
	cache, _, _ := newCacheNode(t, func(c *CacheConfig) {
		c.Forward = forwardTo(to)
		c.Closing = closing
	})
	for _, target := range []string{"/keys?prefix=a+b", "/changes?since=0&values=true", "/keys?limit=0", "/changes?since=9"} {
		got, direct := cache.get(target), database.get(target)
		if got.status != direct.status || got.body != direct.body {
			t.Errorf("%s: %d %q, from the database %d %q", target, got.status, got.body, direct.status, direct.body)
		}
		wantHeader(t, got, "Cache-Control", "no-store")
		want(t, cache.send("HEAD", target, ""), direct.status)
	}
	wantHeader(t, want(t, cache.send("DELETE", "/changes", ""), 405), "Allow", "GET, HEAD")

	lines := cache.open(t, "/changes?follow=true")
	lines.change(t, 1)
	h.set("second", "", "v")
	lines.change(t, 2)
	close(closing)
	if lines.next(); lines.err == nil {
		t.Error("a forwarded stream ended as if it were complete")
	}
}
