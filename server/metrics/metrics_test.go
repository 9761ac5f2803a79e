package metrics_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
	"github.com/Focinfi/oncekv/server/metrics"
)

// scrape returns what a handler shows.
func scrape(t *testing.T, h http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// wantLines fails for each line that is not there.
func wantLines(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+text, "\n"+line+"\n") {
			t.Errorf("no line %q", line)
		}
	}
	if t.Failed() {
		t.Logf("%s", ours(text))
	}
}

// ours leaves out the client library's metrics of the process.
func ours(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "oncekv_") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// conventional checks names, units and types as promtool check metrics does.
func conventional(t *testing.T, text string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for line := range strings.Lines(text) {
		if name, _, _ := strings.Cut(line, "_"); !strings.HasPrefix(line, "#") && name != "oncekv" && name != "go" && name != "process" {
			t.Errorf("a metric that is not ours: %s", line)
		}
	}
}

func TestDatabase(t *testing.T) {
	m := metrics.NewDatabase("n1", func() metrics.DatabaseFigures {
		return metrics.DatabaseFigures{
			Raft: raftnode.Status{Role: raftnode.RoleLeader, Leader: 7, Term: 3, Commit: 12, Applied: 10, Level: 1, Known: 2,
				Members: []raftnode.Member{{ID: 7}, {ID: 8}, {ID: 9, Learner: true}}},
			RaftMore: raftnode.Figures{LeaderChanges: 2, PendingProposals: 4, ApplyQueueBytes: 100, DroppedMessages: 7},
			Store: kvstore.Stats{DurableIndex: 9, Revision: 6, Keys: 6, ValueBytes: 600, HistoryBytes: 1000, IndexBytes: 500,
				IndexedTo: 5, OverlayKeys: 1, OverlayBytes: 73, PendingBytes: 350, OpenUploads: 1,
				Index: keyruns.Stats{Runs: 3, Keys: 5, Bytes: 500, FilterBits: 9.6, MergedBytes: 700, FalsePositives: 2, Pauses: 8}},
			Requests: metrics.Requests{Created: 6, Unchanged: 2, Conflicts: 1, Gets: 30, Absences: 10, Errors: 1},
			Disk:     metrics.Disk{FreeBytes: 1 << 20, ReserveBytes: 2 << 20, Low: true},
			Values:   bodies.Stats{Bodies: 3, LiveBytes: 4096, DeadBytes: 512, ReclaimedBytes: 1024, Segments: 2},
			Scrub:    metrics.Scrub{Fraction: .25, LastEnd: time.UnixMilli(1_500)},
		}
	})
	m.Fsync(time.Millisecond)
	m.Committed(3 * time.Second)
	m.Proposed(2*time.Millisecond, nil)
	for _, err := range []error{raftnode.ErrOverloaded, fmt.Errorf("x: %w", raftnode.ErrOutcomeUnknown), raftnode.ErrStopped, errors.New("other")} {
		m.Proposed(0, err)
	}
	text := scrape(t, m.Handler())
	conventional(t, text)
	wantLines(t, text,
		"oncekv_raft_is_leader 1", "oncekv_raft_has_leader 1", "oncekv_raft_term 3", "oncekv_raft_leader_changes_total 2", "oncekv_raft_messages_dropped_total 7",
		"oncekv_raft_proposals_pending 4", "oncekv_raft_committed_index 12", "oncekv_raft_applied_index 10",
		"oncekv_raft_apply_lag_entries 2", "oncekv_raft_apply_queue_bytes 100",
		`oncekv_level{of="store"} 1`, `oncekv_level{of="program"} 2`,
		`oncekv_raft_members{role="voter"} 2`, `oncekv_raft_members{role="learner"} 1`,
		`oncekv_raft_proposals_failed_total{reason="overloaded"} 1`, `oncekv_raft_proposals_failed_total{reason="unknown"} 1`,
		`oncekv_raft_proposals_failed_total{reason="stopped"} 1`, `oncekv_raft_proposals_failed_total{reason="unavailable"} 0`,
		`oncekv_raft_proposals_failed_total{reason="other"} 1`,
		"oncekv_raft_wal_fsync_duration_seconds_count 1", "oncekv_raft_wal_fsync_duration_seconds_sum 0.001",
		"oncekv_raft_commit_duration_seconds_count 1", "oncekv_store_history_commit_duration_seconds_sum 3",
		"oncekv_store_keys 6", "oncekv_store_revision 6", "oncekv_store_indexed_revision 5", "oncekv_store_durable_index 9",
		"oncekv_store_value_bytes 600", `oncekv_store_file_bytes{file="history"} 1000`, `oncekv_store_file_bytes{file="index"} 500`,
		"oncekv_store_overlay_keys 1", "oncekv_store_overlay_bytes 73", "oncekv_store_pending_bytes 350", "oncekv_store_open_uploads 1",
		`oncekv_puts_total{outcome="created"} 6`, `oncekv_puts_total{outcome="unchanged"} 2`, `oncekv_puts_total{outcome="conflict"} 1`,
		"oncekv_gets_total 30", "oncekv_gets_absent_total 10", "oncekv_errors_total 1",
		"oncekv_disk_free_bytes 1.048576e+06", "oncekv_disk_reserve_bytes 2.097152e+06", "oncekv_disk_low 1",
		"oncekv_index_runs 3", "oncekv_index_merged_bytes_total 700", "oncekv_index_keys 5", "oncekv_index_filter_bytes 6", "oncekv_index_filter_false_positives_total 2",
		"oncekv_index_pauses_total 8",
		"oncekv_values_bodies 3", "oncekv_values_live_bytes 4096", "oncekv_values_dead_bytes 512", "oncekv_values_reclaimed_bytes_total 1024", "oncekv_values_segments 2",
		"oncekv_scrub_fraction 0.25", "oncekv_scrub_last_end_timestamp_seconds 1.5",
	)
	if !strings.Contains(text, `oncekv_build_info{go_version="go`) || !strings.Contains(text, `kind="database",node="n1"`) {
		t.Error("no build info")
	}
}

// There is a series for each route, method and class that was used, and no other.
func TestTraffic(t *testing.T) {
	m := metrics.NewCache("c1", func() api.CacheStats { return api.CacheStats{} })
	get, put := m.Traffic.Route("GET", "/key/{key}"), m.Traffic.Route("PUT", "/key/{key}")
	m.Traffic.InFlight(1)
	m.Traffic.InFlight(1)
	m.Traffic.InFlight(-1)
	get(200, time.Millisecond)
	get(206, time.Millisecond)
	get(404, time.Millisecond)
	get(0, time.Millisecond)
	put(504, 10*time.Second)
	put(999, time.Second)
	text := scrape(t, m.Handler())
	conventional(t, text)
	count := func(method, code string, n int) string {
		return fmt.Sprintf(`oncekv_http_request_duration_seconds_count{code=%q,method=%q,route="/key/{key}"} %d`, code, method, n)
	}
	wantLines(t, text, "oncekv_http_requests_in_flight 1",
		count("GET", "2xx", 2), count("GET", "4xx", 1), count("GET", "aborted", 1), count("PUT", "5xx", 2))
	if n := strings.Count(text, "oncekv_http_request_duration_seconds_count"); n != 4 {
		t.Errorf("%d series, want 4", n)
	}
}

func TestCache(t *testing.T) {
	m := metrics.NewCache("c1", func() api.CacheStats {
		return api.CacheStats{Ready: true, Peers: 2, Databases: 3, UptimeSeconds: 1.5, CacheFigures: api.CacheFigures{
			Gets: 1, Hits: 2, PeerLoads: 3, PeerErrors: 4, PeerServed: 5, DatabaseLoads: 6, Absences: 7, Hedges: 8, PeerHedges: 18, Errors: 9, Items: 10, Bytes: 11, LimitBytes: 12,
			MirroredHits: 13, Admissions: 14, Unadmitted: 15, Evictions: 16, MirroredBytes: 17,
		}}
	})
	m.WatchLoads(func() (peer, database cachetier.Latency) {
		return cachetier.Latency{Count: 3, Sum: 2 * time.Second, Buckets: map[float64]uint64{0.5: 2, 1: 3}}, cachetier.Latency{Count: 1, Sum: time.Second, Buckets: map[float64]uint64{0.5: 0, 1: 1}}
	})
	text := scrape(t, m.Handler())
	conventional(t, text)
	wantLines(t, text,
		"oncekv_cache_peer_hedges_total 18", "oncekv_cache_peer_load_duration_seconds_count 3", "oncekv_cache_peer_load_duration_seconds_sum 2",
		`oncekv_cache_peer_load_duration_seconds_bucket{le="0.5"} 2`, "oncekv_cache_database_load_duration_seconds_count 1", `oncekv_cache_database_load_duration_seconds_bucket{le="1"} 1`,
		"oncekv_cache_gets_total 1", "oncekv_cache_hits_total 2", "oncekv_cache_peer_loads_total 3", "oncekv_cache_peer_errors_total 4",
		"oncekv_cache_peer_served_total 5", "oncekv_cache_database_loads_total 6", "oncekv_cache_gets_absent_total 7",
		"oncekv_cache_hedges_total 8", "oncekv_cache_errors_total 9", "oncekv_cache_items 10", "oncekv_cache_bytes 11", "oncekv_cache_limit_bytes 12",
		"oncekv_cache_hits_mirrored_total 13", "oncekv_cache_admissions_total 14", "oncekv_cache_unadmitted_total 15", "oncekv_cache_evictions_total 16",
		"oncekv_cache_mirrored_bytes 17",
		"oncekv_cache_ready 1", "oncekv_cache_peers 2", "oncekv_cache_databases 3", "oncekv_cache_uptime_seconds 1.5")
}

// BenchmarkTraffic is what the metrics of a request cost besides two readings of the clock.
func BenchmarkTraffic(b *testing.B) {
	m := metrics.NewCache("c1", func() api.CacheStats { return api.CacheStats{} })
	get := m.Traffic.Route("GET", "/key/{key}")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			m.Traffic.InFlight(1)
			get(200, 50*time.Microsecond)
			m.Traffic.InFlight(-1)
		}
	})
}
