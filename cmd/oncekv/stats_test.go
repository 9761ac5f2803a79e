package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/Focinfi/oncekv/client"
)

func TestStats(t *testing.T) {
	f := newFakeAPI(t)
	cache := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusOK, client.CacheStats{Name: "c1", Ready: true, CacheFigures: client.CacheFigures{Hits: 4711}})
	}))
	t.Cleanup(cache.Close)
	f.fill("a", "b", "c")
	f.locked(func() {
		f.members = client.Members{Leader: "n1", Term: 3, Members: []client.Member{{Name: "n1", ClientURL: f.URL}}}
		f.caches = []client.CacheNode{{Name: "c1", URL: cache.URL}}
	})
	f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, "DATABASE", "n1", "leader", "CACHE", "c1", "4711")
	var doc statsDocument
	must(t, json.Unmarshal([]byte(f.command(t, nil, "stats", "--json").want(t, exitDone).stdout), &doc))
	if doc.Leader != "n1" || len(doc.Databases) != 1 || doc.Databases[0].Stats.Keys != 3 || doc.Caches[0].Stats.Hits != 4711 {
		t.Errorf("%+v", doc)
	}

	// A node that is down is shown, with the reason.
	dead := httptest.NewServer(nil)
	dead.Close()
	f.locked(func() { f.members.Members = append(f.members.Members, client.Member{Name: "n2", ClientURL: dead.URL}) })
	cache.Close()
	f.command(t, nil, "stats").want(t, exitFailed).wantStdout(t, "n1", "leader", "n2", "c1", "no answer").wantStderr(t, "n2: ", "c1: ", "2 of 3 nodes did not answer")
	r := f.command(t, nil, "stats", "--json").want(t, exitFailed)
	must(t, json.Unmarshal([]byte(r.stdout), &doc))
	if doc.Databases[1].Error == "" || doc.Databases[1].Stats != nil || doc.Databases[0].Stats == nil {
		t.Errorf("%+v", doc)
	}
}
