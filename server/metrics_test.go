package server_test

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/level"
)

// scrape returns a node's series and their values.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	code, body := fetch(t, url+"/metrics")
	if code != 200 {
		t.Fatalf("%s/metrics: %d %s", url, code, body)
	}
	series := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		at := strings.LastIndexByte(lines.Text(), ' ')
		v, err := strconv.ParseFloat(lines.Text()[at+1:], 64)
		if err != nil {
			t.Fatalf("%q: %v", lines.Text(), err)
		}
		series[lines.Text()[:at]] = v
	}
	return series
}

// Nodes of one process each show their own metrics, and nothing from the process's default
// registry.
func TestMetrics_EveryNodeItsOwn(t *testing.T) {
	c := clustertest.Start(t, 3, 1)
	ctx := clustertest.WithTimeout(t)
	cl := clustertest.Client(t, c.DBs[0].URL())
	for i := range 5 {
		if _, err := cl.PutBytes(ctx, fmt.Sprint("k", i), []byte("v"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/key/k1", "/key/none"} {
		fetch(t, c.DBs[0].URL()+path)
		fetch(t, c.Caches[0].URL()+path)
	}
	leaders := 0.0
	for i, d := range c.DBs {
		var m map[string]float64
		clustertest.Eventually(t, "everything applied on "+d.Name(), func() error {
			m = scrape(t, d.URL())
			if m["oncekv_store_keys"] != 5 || m["oncekv_raft_apply_lag_entries"] != 0 {
				return fmt.Errorf("%v keys", m["oncekv_store_keys"])
			}
			return nil
		})
		leaders += m["oncekv_raft_is_leader"]
		puts := 0.0
		if i == 0 {
			puts = 5
			if m["oncekv_raft_commit_duration_seconds_count"] < 5 || m["oncekv_gets_total"] < 2 || m["oncekv_gets_absent_total"] < 1 {
				t.Errorf("%s: %v commits, %v gets, %v absent", d.Name(), m["oncekv_raft_commit_duration_seconds_count"], m["oncekv_gets_total"], m["oncekv_gets_absent_total"])
			}
		}
		if got := m[`oncekv_puts_total{outcome="created"}`]; got != puts {
			t.Errorf("%s counts %v puts, want %v", d.Name(), got, puts)
		}
		if m["oncekv_raft_wal_fsync_duration_seconds_count"] < 1 || m["oncekv_raft_has_leader"] != 1 || m["oncekv_raft_leader_changes_total"] < 1 ||
			m[`oncekv_raft_members{role="voter"}`] != 3 || m[`oncekv_level{of="store"}`] != level.Highest || m[`oncekv_level{of="program"}`] != level.Highest || m["oncekv_disk_free_bytes"] <= 0 || m[`oncekv_store_file_bytes{file="history"}`] <= 0 {
			t.Errorf("%s: %v", d.Name(), m)
		}
		wantOurs(t, m)
	}
	if leaders != 1 {
		t.Errorf("%v nodes say that they lead", leaders)
	}
	m := scrape(t, c.Caches[0].URL())
	wantOurs(t, m)
	if m["oncekv_cache_gets_total"] != 2 || m["oncekv_cache_gets_absent_total"] != 1 || m["oncekv_cache_items"] != 1 || m["oncekv_cache_ready"] != 1 {
		t.Errorf("cache: %v", m)
	}
	if got := m[`oncekv_http_request_duration_seconds_count{code="4xx",method="GET",route="/key/{key}"}`]; got != 1 {
		t.Errorf("cache: %v absences were answered, want 1", got)
	}
}

func wantOurs(t *testing.T, series map[string]float64) {
	t.Helper()
	for name := range series {
		if prefix, _, _ := strings.Cut(name, "_"); prefix != "oncekv" && prefix != "go" && prefix != "process" {
			t.Errorf("%s is not ours", name)
		}
	}
}
