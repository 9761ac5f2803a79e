package server_test

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/level"
)

// A node reports the same levels and the same history everywhere.
func TestDatabase_TellsHistoryAndLevels(t *testing.T) {
	c := clustertest.Start(t, 1, 0)
	url := c.DBs[0].URL()
	resp, err := http.Get(url + "/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var stats api.Stats
	if err := json.Unmarshal(body, &stats); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if stats.Level != (api.Levels{Store: level.Highest, Program: level.Highest}) {
		t.Errorf("levels %+v", stats.Level)
	}
	history := ""
	if stats.History != nil {
		history = stats.History.ID
	}
	for _, path := range []string{"/stats", "/ping", "/members", "/keys", "/changes"} {
		resp, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if got := resp.Header.Get(api.HeaderHistory); resp.StatusCode != http.StatusOK || got != history {
			t.Errorf("%s: %d, history %q; /stats says %q", path, resp.StatusCode, got, history)
		}
	}
}
