package metrics

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/raftnode"
)

// DatabaseFigures is a database node's state at one moment.
type DatabaseFigures struct {
	Raft     raftnode.Status
	RaftMore raftnode.Figures
	Store    kvstore.Stats
	Requests Requests
	Disk     Disk
	Values   bodies.Stats
	Scrub    Scrub
}

// Requests counts requests since the process began.
type Requests struct {
	Created, Unchanged, Conflicts uint64
	Gets, Absences, Errors        uint64
}

// Disk describes the file system that holds the data.
type Disk struct {
	FreeBytes, ReserveBytes int64
	Low                     bool // below the reserve
}

// Scrub is the progress of a node's scrub, and when the last one ended.
type Scrub struct {
	Fraction float64   // 0 when none is running
	LastEnd  time.Time // zero: none has ended yet
}

// Database holds a database node's metrics.
type Database struct {
	node
	fsync   prometheus.Histogram
	propose prometheus.Histogram
	failed  *prometheus.CounterVec
	commit  prometheus.Histogram
}

// NewDatabase makes a database node's metrics. Every scrape calls take once, from any
// goroutine, but not before Handler is served.
func NewDatabase(name string, take func() DatabaseFigures) *Database {
	d := &Database{
		node: newNode("database", name),
		fsync: newHistogram("raft_wal_fsync_duration_seconds",
			"Time to append to the write-ahead log and fsync it."),
		propose: newHistogram("raft_commit_duration_seconds",
			"Time from a proposal at this node to its answer: replicated, fsynced by a quorum and applied here."),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "raft_proposals_failed_total",
			Help: "Proposals at this node without an answer, by reason; only unknown may have taken effect.",
		}, []string{"reason"}),
		commit: newHistogram("store_history_commit_duration_seconds",
			"Time to write what was applied to the history file and fsync it; puts do not wait for it."),
	}
	for _, reason := range []string{reasonOverloaded, reasonUnavailable, reasonUnknown, reasonStopped, reasonOther} {
		d.failed.WithLabelValues(reason) // each shows 0 from the start
	}
	d.registry.MustRegister(d.fsync, d.propose, d.failed, d.commit, &snapshot[DatabaseFigures]{take: take, metrics: databaseMetrics()})
	return d
}

// newHistogram makes a histogram for something that ends in an fsync, from fast flash to a
// dying disk.
func newHistogram(name, help string) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(.00025, 2, 16),
	})
}

// Fsync is raftnode.Config.OnFsync.
func (d *Database) Fsync(took time.Duration) { d.fsync.Observe(took.Seconds()) }

// Committed is kvstore.StoreConfig.OnCommit.
func (d *Database) Committed(took time.Duration) { d.commit.Observe(took.Seconds()) }

// Proposed is raftnode.Config.OnPropose.
func (d *Database) Proposed(took time.Duration, err error) {
	if err == nil {
		d.propose.Observe(took.Seconds())
		return
	}
	d.failed.WithLabelValues(reasonOf(err)).Inc()
}

// Reasons for which a proposal has no answer.
const (
	reasonOverloaded  = "overloaded"
	reasonUnavailable = "unavailable"
	reasonUnknown     = "unknown"
	reasonStopped     = "stopped"
	reasonOther       = "other"
)

func reasonOf(err error) string {
	switch {
	case errors.Is(err, raftnode.ErrOutcomeUnknown):
		return reasonUnknown
	case errors.Is(err, raftnode.ErrOverloaded):
		return reasonOverloaded
	case errors.Is(err, raftnode.ErrUnavailable):
		return reasonUnavailable
	case errors.Is(err, raftnode.ErrStopped):
		return reasonStopped
	}
	return reasonOther
}

func databaseMetrics() []metric[DatabaseFigures] {
	type f = DatabaseFigures
	type value = labelValue[DatabaseFigures]
	all := []metric[f]{
		counter("gets_total", "Reads of a key that were answered, absences included.", func(n *f) float64 { return float64(n.Requests.Gets) }),
		counter("gets_absent_total", "Reads of keys that are not set.", func(n *f) float64 { return float64(n.Requests.Absences) }),
		counter("errors_total", "Answers with a status of 500 or more, and answers broken off.", func(n *f) float64 { return float64(n.Requests.Errors) }),

		gauge("raft_is_leader", "1 while this node leads.", func(n *f) float64 { return truth(n.Raft.Role == raftnode.RoleLeader) }),
		gauge("raft_has_leader", "1 while this node knows a leader.", func(n *f) float64 { return truth(n.Raft.Leader != 0) }),
		gauge("raft_term", "Raft's term.", func(n *f) float64 { return float64(n.Raft.Term) }),
		counter("raft_leader_changes_total", "How often this node learned of a new leader.", func(n *f) float64 { return float64(n.RaftMore.LeaderChanges) }),
		counter("raft_messages_dropped_total", "Messages on the peer port that were dropped because no honest member sends them.", func(n *f) float64 { return float64(n.RaftMore.DroppedMessages) }),
		gauge("raft_proposals_pending", "Proposals at this node that are waiting for their answer.", func(n *f) float64 { return float64(n.RaftMore.PendingProposals) }),
		gauge("raft_committed_index", "Last entry of the log known to be committed.", func(n *f) float64 { return float64(n.Raft.Commit) }),
		gauge("raft_applied_index", "Last entry of the log that is applied.", func(n *f) float64 { return float64(n.Raft.Applied) }),
		gauge("raft_apply_lag_entries", "Committed entries that are not applied yet.", func(n *f) float64 { return float64(n.Raft.Commit - n.Raft.Applied) }),
		gauge("raft_apply_queue_bytes", "Committed entries in memory that wait to be applied.", func(n *f) float64 { return float64(n.RaftMore.ApplyQueueBytes) }),

		gauge("store_keys", "Keys that are set.", func(n *f) float64 { return float64(n.Store.Keys) }),
		gauge("store_revision", "Revision of the newest key.", func(n *f) float64 { return float64(n.Store.Revision) }),
		gauge("store_indexed_revision", "Revision up to which the index knows every key.", func(n *f) float64 { return float64(n.Store.IndexedTo) }),
		gauge("store_durable_index", "Last entry of the log that the history file holds.", func(n *f) float64 { return float64(n.Store.DurableIndex) }),
		gauge("store_value_bytes", "Sum of the sizes of all values.", func(n *f) float64 { return float64(n.Store.ValueBytes) }),
		gauge("store_overlay_keys", "Keys in memory that are not in the index yet.", func(n *f) float64 { return float64(n.Store.OverlayKeys) }),
		gauge("store_overlay_bytes", "Memory of keys that are not in the index yet.", func(n *f) float64 { return float64(n.Store.OverlayBytes) }),
		gauge("store_pending_bytes", "Memory of what is applied and not in the history file yet.", func(n *f) float64 { return float64(n.Store.PendingBytes) }),
		gauge("store_open_uploads", "Large values that are being put.", func(n *f) float64 { return float64(n.Store.OpenUploads) }),

		gauge("index_runs", "Sorted runs of keys that the index is made of. At 24, puts wait for merges.", func(n *f) float64 { return float64(n.Store.Index.Runs) }),
		counter("index_merged_bytes_total", "Bytes that merges of the index wrote.", func(n *f) float64 { return float64(n.Store.Index.MergedBytes) }),
		gauge("index_keys", "Keys in the index; those of the newest revisions are not in it yet.", func(n *f) float64 { return float64(n.Store.Index.Keys) }),
		gauge("index_filter_bytes", "Memory of the filters of the index, about 12 bits per key.", func(n *f) float64 { return float64(n.Store.Index.Keys) * n.Store.Index.FilterBits / 8 }),
		counter("index_filter_false_positives_total", "Disk reads for a key that the filter reported but the run did not have.", func(n *f) float64 { return float64(n.Store.Index.FalsePositives) }),
		counter("index_pauses_total", "How often a flush of the index waited for merges.", func(n *f) float64 { return float64(n.Store.Index.Pauses) }),

		gauge("values_bodies", "Pieces of large values, of up to 1 MiB, each kept once.", func(n *f) float64 { return float64(n.Values.Bodies) }),
		gauge("values_live_bytes", "Bytes in the files of large values that a value, an open upload or the log needs.", func(n *f) float64 { return float64(n.Values.LiveBytes) }),
		gauge("values_dead_bytes", "Bytes in the files of large values that nothing needs and that are not reclaimed yet.", func(n *f) float64 { return float64(n.Values.DeadBytes) }),
		counter("values_reclaimed_bytes_total", "Bytes of large values that were returned to the file system.", func(n *f) float64 { return float64(n.Values.ReclaimedBytes) }),
		gauge("values_segments", "Files that hold large values.", func(n *f) float64 { return float64(n.Values.Segments) }),

		gauge("scrub_fraction", "Progress of the running scrub, 0 to 1; 0 when none is running.", func(n *f) float64 { return n.Scrub.Fraction }),
		gauge("scrub_last_end_timestamp_seconds", "When the last scrub ended; 0 when none has ended yet.", func(n *f) float64 { return unixSeconds(n.Scrub.LastEnd) }),

		gauge("disk_free_bytes", "Free space of the file system that holds the data.", func(n *f) float64 { return float64(n.Disk.FreeBytes) }),
		gauge("disk_reserve_bytes", "Free space below which the cluster refuses puts.", func(n *f) float64 { return float64(n.Disk.ReserveBytes) }),
		gauge("disk_low", "1 while the free space is below the reserve.", func(n *f) float64 { return truth(n.Disk.Low) }),
	}
	all = append(all, labelled(prometheus.CounterValue, "puts_total", "Puts that were decided, by outcome.", "outcome",
		value{"created", func(n *f) float64 { return float64(n.Requests.Created) }},
		value{"unchanged", func(n *f) float64 { return float64(n.Requests.Unchanged) }},
		value{"conflict", func(n *f) float64 { return float64(n.Requests.Conflicts) }})...)
	all = append(all, labelled(prometheus.GaugeValue, "store_file_bytes", "Size of the files of a part of the store.", "file",
		value{"history", func(n *f) float64 { return float64(n.Store.HistoryBytes) }},
		value{"index", func(n *f) float64 { return float64(n.Store.IndexBytes) }})...)
	all = append(all, labelled(prometheus.GaugeValue, "level", "Level of formats: that of the store, 0 while this node takes no part, and the highest that this program knows.", "of",
		value{"store", func(n *f) float64 { return float64(n.Raft.Level) }},
		value{"program", func(n *f) float64 { return float64(n.Raft.Known) }})...)
	return append(all, labelled(prometheus.GaugeValue, "raft_members", "Members of the cluster, by role.", "role",
		value{"voter", func(n *f) float64 { return members(n, false) }},
		value{"learner", func(n *f) float64 { return members(n, true) }})...)
}

// unixSeconds returns 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func members(n *DatabaseFigures, learner bool) (count float64) {
	for _, m := range n.Raft.Members {
		if m.Learner == learner {
			count++
		}
	}
	return count
}
