package server_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// Invariant 5, for lists: every node lists, in the same bytes, everything acknowledged before
// the request, and followers see the end event of a node that stops.
func TestCluster_Lists(t *testing.T) {
	c := clustertest.Start(t, 3, 1)
	ctx := clustertest.WithTimeout(t)
	follower := follow(t, c.DBs[2].URL())
	for i := range 50 {
		put := clustertest.Client(t, c.DBs[i%3].URL())
		if _, err := put.PutBytes(ctx, fmt.Sprintf("k/%02d", i), []byte("v"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, target := range []string{"/keys?prefix=k/", "/changes"} { // at once, at a node that took no put
			if code, body := fetch(t, c.DBs[(i+1)%3].URL()+target); code != 200 || strings.Count(body, `"revision":`) != i+1 {
				t.Fatalf("put %d: %s: %d %q", i, target, code, body)
			}
		}
	}
	_, keys := fetch(t, c.DBs[0].URL()+"/keys?limit=30")
	_, changes := fetch(t, c.DBs[0].URL()+"/changes?values=true")
	for _, u := range []string{c.DBs[1].URL(), c.DBs[2].URL(), c.Caches[0].URL()} {
		if _, got := fetch(t, u+"/keys?limit=30"); got != keys {
			t.Errorf("%s lists other keys: %q", u, got)
		}
		if _, got := fetch(t, u+"/changes?values=true"); got != changes {
			t.Errorf("%s lists other changes: %q", u, got)
		}
	}
	through := follow(t, c.Caches[0].URL())
	for i := range 50 {
		want := fmt.Sprintf(`{"key":"k/%02d","revision":%d,`, i, i+1)
		for _, s := range []*bufio.Scanner{follower, through} {
			if !s.Scan() || !strings.HasPrefix(s.Text(), want) {
				t.Fatalf("line %q, %v, want %q", s.Text(), s.Err(), want)
			}
		}
	}
	began := time.Now()
	if err := c.DBs[2].Close(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > closeMax {
		t.Errorf("a node with a follower took %v to stop", took)
	}
	for follower.Scan() && !strings.Contains(follower.Text(), `"event":"end"`) { // heartbeats
	}
	if want := `{"event":"end","revision":50,"history":"`; !strings.HasPrefix(follower.Text(), want) || !strings.Contains(follower.Text(), `"reason":"closing",`) || follower.Scan() || follower.Err() != nil {
		t.Errorf("the follower ends with %q, %v", follower.Text(), follower.Err())
	}
	began = time.Now()
	if err := c.Caches[0].Close(context.Background()); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > closeMax {
		t.Errorf("a cache node with a follower took %v to stop", took)
	}
}

// follow starts to follow all changes.
func follow(t *testing.T, url string) *bufio.Scanner {
	t.Helper()
	resp, err := http.Get(url + "/changes?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	return bufio.NewScanner(resp.Body)
}
