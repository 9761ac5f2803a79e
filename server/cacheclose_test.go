package server_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

// A cache node that stops leaves the ring first and serves until its peers know.
func TestCache_Close_ServesUntilItsPeersKnow(t *testing.T) {
	deadline := time.Now().Add(clustertest.Patience)
	for !servesDuringGoodbye(t) {
		if time.Now().After(deadline) {
			t.Fatal("the machine never answered within the time of a goodbye")
		}
	}
}

// servesDuringGoodbye closes a cache node and sends it requests while it certainly still
// says goodbye. It returns false, which proves nothing, if no answer came in that time.
func servesDuringGoodbye(t *testing.T) bool {
	const certain = 400 * time.Millisecond // of the 500 ms that a goodbye may take
	leaving, heard := make(chan struct{}), make(chan struct{})
	db := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var h api.Heartbeat
		if err := json.NewDecoder(r.Body).Decode(&h); err != nil {
			return
		}
		if h.Leaving {
			close(leaving)
			<-heard
		}
		json.NewEncoder(w).Encode(api.HeartbeatAnswer{})
	}))
	defer db.Close()
	defer close(heard)
	c, err := server.StartCache(t.Context(), server.CacheConfig{Name: "c1", Listen: "127.0.0.1:0", Nodes: []string{db.URL}, Logger: clustertest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "the cache node is ready", func() error { return c.Ready(t.Context()) })
	began, closed := time.Now(), make(chan error, 1)
	go func() { closed <- c.Close(context.Background()) }()
	defer func() {
		if err := <-closed; err != nil {
			t.Errorf("close: %v", err)
		}
	}()
	select {
	case <-leaving:
	case <-time.After(clustertest.Patience):
		t.Fatal("no goodbye")
	}
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answers := 0
	for {
		resp, err := hc.Get(c.URL() + "/livez")
		if time.Since(began) > certain {
			if err == nil {
				resp.Body.Close()
			}
			return answers > 0
		}
		if err != nil {
			t.Fatalf("%v after the beginning of Close: %v", time.Since(began), err)
		}
		resp.Body.Close()
		answers++
	}
}
