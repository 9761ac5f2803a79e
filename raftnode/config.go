package raftnode

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/internal/nodeurl"
)

// Peer is one entry of an initial cluster.
type Peer struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Config describes a node. Only Dir, Name, PeerURL and ClientURL are
// required.
type Config struct {
	// Dir is the data directory. It must exist and belong to this process
	// alone. The node keeps identity, wal/ and snap/ in it.
	Dir  string
	Name string
	// PeerURL is where other members reach Handler, ClientURL where clients reach the node,
	// as http://host:port. PeerURL may be empty once the node belongs to a cluster: it
	// keeps the one that the cluster knows.
	PeerURL   string
	ClientURL string
	// InitialCluster lists all members of a new cluster, this one included; empty means a
	// cluster of one. Join, if set, adds this node to a running cluster instead and returns
	// its members; an error of Join ends Run. Both are ignored once the node belongs to a
	// cluster.
	InitialCluster []Peer
	Join           func(ctx context.Context, self Member) ([]Member, error)
	// ForceNewCluster is a word with which this node makes itself the only member of a new
	// cluster, with everything it has on disk: the way out when a majority is permanently
	// lost. Each word works once, and the first is ForceOnce; empty forces nothing. Run
	// returns a *ForceError if it was done already, or voters of the old cluster answer.
	ForceNewCluster string

	// Bodies keeps the bodies that commands refer to; nil if none does. Its opener closes
	// it after Run has returned.
	Bodies *bodies.Store
	// LacksRoom reports whether the disk is so full that nothing which other members push
	// is kept; nil: never. It must be quick and safe for concurrent use.
	LacksRoom func() bool

	// Level is the highest level that this node understands, default level.Highest.
	// Tests set it, to be a node of another version.
	Level uint64

	// Tick is raft's unit of time, default 100 ms: a heartbeat is one tick,
	// an election timeout 10 to 20.
	Tick time.Duration
	// SnapshotLogBytes is how much log may follow a snapshot before the next one, default
	// 16 MiB. KeepLogBytes of older log stay in memory for members that are a little
	// behind, default 16 MiB. Bodies that the log refers to count; they leave it after 150
	// ticks (15 seconds) if the state has their entries durably.
	SnapshotLogBytes int
	KeepLogBytes     int
	// QueueBytes bounds each of: proposals that wait, messages received but
	// not handled, messages that wait for bodies, entries committed but not
	// applied, with their bodies. Default 64 MiB.
	QueueBytes int
	// ProposeTimeout ends a proposal whose context has no earlier deadline,
	// default 10 s. NoLeaderTimeout ends it when raft has not even taken the
	// command, default 3 s.
	ProposeTimeout  time.Duration
	NoLeaderTimeout time.Duration

	// OnFsync hears how long each fsync of the write-ahead log took, OnPropose how each
	// proposal ended. They are called on the paths that they measure, OnPropose
	// concurrently, and may be nil.
	OnFsync   func(took time.Duration)
	OnPropose func(took time.Duration, err error)

	Logger *slog.Logger

	sync   syncFunc // default fsync.Sync; tests watch it, or let it fail
	strays int64    // default strayBytesMax

	bodyTicks uint64 // the log keeps bodies that the state has durably, default 150
}

func (c *Config) setDefaults() {
	c.Tick = cmp.Or(c.Tick, 100*time.Millisecond)
	c.ProposeTimeout = cmp.Or(c.ProposeTimeout, 10*time.Second)
	c.NoLeaderTimeout = cmp.Or(c.NoLeaderTimeout, 3*time.Second)
	c.SnapshotLogBytes = cmp.Or(c.SnapshotLogBytes, 16<<20)
	c.KeepLogBytes = cmp.Or(c.KeepLogBytes, 16<<20)
	c.QueueBytes = cmp.Or(c.QueueBytes, 64<<20)
	c.Level = cmp.Or(c.Level, level.Highest)
	c.Logger = cmp.Or(c.Logger, slog.New(slog.DiscardHandler))
	c.strays = cmp.Or(c.strays, strayBytesMax)
	c.bodyTicks = cmp.Or(c.bodyTicks, 150)
	if c.sync == nil {
		c.sync = fsync.Sync
	}
	if len(c.InitialCluster) == 0 {
		c.InitialCluster = []Peer{{c.Name, c.PeerURL}}
	}
}

// CheckPeers verifies the list of an initial cluster and returns it with its URLs
// in the one form that is compared.
func CheckPeers(peers []Peer) ([]Peer, error) {
	checked := make([]Peer, 0, len(peers))
	for _, p := range peers {
		if err := nodeurl.CheckName(p.Name); err != nil {
			return nil, err
		}
		url, err := nodeurl.WithPort(p.URL)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		for _, q := range checked {
			if q.Name == p.Name || q.URL == url {
				return nil, fmt.Errorf("%s=%s and %s=%s have the same name or URL", q.Name, q.URL, p.Name, url)
			}
		}
		checked = append(checked, Peer{p.Name, url})
	}
	return checked, nil
}

// checkInitial verifies that the initial cluster includes this node as it was
// configured.
func checkInitial(cfg Config) ([]Peer, error) {
	peers, err := CheckPeers(cfg.InitialCluster)
	if err != nil {
		return nil, fmt.Errorf("%w: the initial cluster: %w", ErrBadMember, err)
	}
	for _, p := range peers {
		if p.Name != cfg.Name {
			continue
		}
		if p.URL != cfg.PeerURL {
			return nil, fmt.Errorf("%w: the initial cluster says that %s is reached at %s, but it advertises %s", ErrBadMember, p.Name, p.URL, cfg.PeerURL)
		}
		return peers, nil
	}
	return nil, fmt.Errorf("%w: the initial cluster does not name this node, %s", ErrBadMember, cfg.Name)
}

// strayBytesMax is how many bytes of bodies that nothing refers to there may be beyond
// what is alive: anybody who reaches the peer port can push them.
const strayBytesMax = 1 << 30
