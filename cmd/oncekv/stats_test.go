package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
)

func TestStats(t *testing.T) {
	f := newFakeAPI(t)
	cache := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, http.StatusOK, api.CacheStats{Name: "c1", Ready: true, CacheFigures: api.CacheFigures{Hits: 4711}})
	}))
	t.Cleanup(cache.Close)
	f.fill("a", "b", "c")
	f.locked(func() {
		f.members = api.Members{Leader: "n1", Term: 3, Members: []api.Member{{Name: "n1", ClientURL: f.URL}}}
		f.caches = []api.CacheNode{{Name: "c1", URL: cache.URL}}
	})
	f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, "DATABASE", "n1", "leader", "CACHE", "c1", "4711")
	var doc statsDocument
	must(t, json.Unmarshal([]byte(f.command(t, nil, "stats", "--json").want(t, exitDone).stdout), &doc))
	if doc.Leader != "n1" || len(doc.Databases) != 1 || doc.Databases[0].Stats.Keys != 3 || doc.Caches[0].Stats.Hits != 4711 {
		t.Errorf("%+v", doc)
	}

	// A node that is down is shown with the reason.
	dead := httptest.NewServer(nil)
	dead.Close()
	f.locked(func() { f.members.Members = append(f.members.Members, api.Member{Name: "n2", ClientURL: dead.URL}) })
	cache.Close()
	f.command(t, nil, "stats").want(t, exitFailed).wantStdout(t, "n1", "leader", "n2", "c1", "no answer").wantStderr(t, "n2: ", "c1: ", "2 of 3 nodes did not answer")
	r := f.command(t, nil, "stats", "--json").want(t, exitFailed)
	must(t, json.Unmarshal([]byte(r.stdout), &doc))
	if doc.Databases[1].Error == "" || doc.Databases[1].Stats != nil || doc.Databases[0].Stats == nil {
		t.Errorf("%+v", doc)
	}
}

// stats shows each database node's history, and the one from which it continued.
func TestStats_Histories(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() {
		f.members = api.Members{Leader: "n1", Members: []api.Member{{Name: "n1", ClientURL: f.URL}, {Name: "n2", ClientURL: f.URL}}}
		f.of = api.History{ID: forkedHistory, Parents: []api.Origin{{ID: "aaaa", Revision: 3, Head: "0a"}, {ID: watchedHistory, Revision: 42, Head: "0b"}}}
	})
	r := f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, "\nDATABASE  HISTORY                           LEVEL  PROGRAM KNOWS\nn1        "+forkedHistory+"  1      2\nn2        "+forkedHistory+"  1      2\n",
		"HISTORY                           WENT ON FROM                      AT REVISION  HEAD\n"+forkedHistory+"  "+watchedHistory+"  42           0b\n"+watchedHistory+"  aaaa                              3            0a\n\nCACHE")
	plainOutput(t, "stats", r.stdout)
	f.locked(func() { f.of = api.History{} })
	if r := f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, "\nn1        -        1      2\n"); strings.Contains(r.stdout, "WENT ON FROM") {
		t.Errorf("%s", r.stdout)
	}
}

// stats shows the indexes of keys.
func TestStats_Indexes(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() {
		f.members = api.Members{Leader: "n1", Members: []api.Member{{Name: "n1", ClientURL: f.URL}}}
		f.index = api.IndexRuns{Runs: 3, Keys: 1_500_000, FilterBitsPerKey: 9.04, MergedBytes: 3 << 20, FalsePositives: 12, Pauses: 1}
	})
	r := f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, "\nDATABASE  INDEX    RUNS  KEYS     FILTER BITS/KEY  MERGED   FALSE POSITIVES  PAUSES\nn1        5.0 MiB  3     1500000  9.0              3.0 MiB  12               1\n")
	plainOutput(t, "stats", r.stdout)
}

// stats shows the files of large values, and what the last scrub found.
func TestStats_FilesAndScrub(t *testing.T) {
	f := newFakeAPI(t)
	f.locked(func() {
		f.members = api.Members{Leader: "n1", Members: []api.Member{{Name: "n1", ClientURL: f.URL}}}
		f.files = api.ValueFiles{Bodies: 12, LiveBytes: 3 << 20, DeadBytes: 2 << 10, ReclaimedBytes: 1 << 30, Segments: 2}
	})
	const head = "\nDATABASE  BODIES  LIVE     DEAD     RECLAIMED  SCRUB  LAST SCRUB"
	f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, head+"  TOOK  RESULT\nn1        12      3.0 MiB  2.0 KiB  1.0 GiB    -      -           -     -\n")
	end := time.Date(2026, 1, 5, 12, 3, 11, 0, time.UTC)
	f.locked(func() {
		f.scrub = api.Scrub{Running: true, Fraction: .429, LastEnd: &end, LastTookSeconds: 90, LastResult: api.ScrubOK}
	})
	r := f.command(t, nil, "stats").want(t, exitDone).wantStdout(t, head, "1.0 GiB    42 %   2026-01-05T12:03:11Z  1m30s  ok\n")
	plainOutput(t, "stats", r.stdout)
}
