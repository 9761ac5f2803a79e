package cachetier

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/Focinfi/oncekv/internal/forward"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// New checks cfg and returns a node, which serves at once: with an empty cache, from the
// nodes of cfg.Nodes. Nothing runs before Run, and nothing is sent before Run or Get.
//
// groupcache's registry is process-wide. So a process that registers a peer picker of its
// own with groupcache cannot use this package, and a few KiB stay of every closed node.
func New(cfg NodeConfig) (*Node, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		log:     cfg.Logger.With("cache", cfg.Name),
		now:     cfg.now,
		members: newMembership(cfg.URL, cfg.Nodes),
		began:   cfg.now(),
		serving: make(map[*served]struct{}),
		probes:  make(chan struct{}, probesMax),
	}
	n.base, n.stopBase = context.WithCancel(context.Background())
	n.databases = &databases{now: n.now}
	n.databases.begin(cfg.Nodes)
	n.fetcher = &fetcher{
		databases: n.databases,
		http:      newHTTPClient(dialTimeout),
		log:       n.log,
		hedge:     cfg.HedgeDelay,
		now:       n.now,
		bodies:    semaphore.NewWeighted(bodiesMax),
		running:   &n.loads,
		learned:   n.learned,
	}
	n.peerHTTP = newHTTPClient(cfg.PeerTimeout)
	n.forward = forward.New(forward.Config{Databases: n.nearest, Leader: n.databases.leading, Failed: n.databases.failed, Logger: n.log})
	n.view.Store(&view{})
	n.setPeers(nil)
	n.memory = s3fifo.New[*record](cfg.CacheBytes)
	n.era.Store(newEra(n.base, kvstore.HistoryID{}))
	n.collecting.limit = cfg.CacheBytes / s3fifo.LargestShare
	n.owned, n.mirror = newTiers(n)
	return n, nil
}

func (cfg *NodeConfig) check() (err error) {
	if cfg.URL, err = nodeurl.Parse(cfg.URL); err != nil {
		return fmt.Errorf("cache node: %w", err)
	}
	if err := nodeurl.CheckName(cfg.Name); err != nil {
		return fmt.Errorf("cache node: %w", err)
	}
	if len(cfg.Nodes) == 0 {
		return errors.New("cache node: no database nodes given; name at least one, such as http://127.0.0.1:11000")
	}
	cfg.Nodes = slices.Clone(cfg.Nodes)
	for i, node := range cfg.Nodes {
		if cfg.Nodes[i], err = nodeurl.Parse(node); err != nil {
			return fmt.Errorf("cache node: database node: %w", err)
		}
	}
	if cfg.CacheBytes < 0 {
		return fmt.Errorf("cache node: cache of %d bytes; give a positive size, or 0 for the default", cfg.CacheBytes)
	}
	cfg.CacheBytes = cmp.Or(cfg.CacheBytes, 64<<20)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	cfg.HeartbeatInterval = cmp.Or(cfg.HeartbeatInterval, 500*time.Millisecond)
	cfg.PeerTimeout = cmp.Or(cfg.PeerTimeout, 500*time.Millisecond)
	cfg.LoadTimeout = cmp.Or(cfg.LoadTimeout, 5*time.Second)
	cfg.StreamIdle = cmp.Or(cfg.StreamIdle, streamIdleMax)
	cfg.heartbeatTime = cmp.Or(cfg.heartbeatTime, time.Second)
	cfg.goodbyeTime = cmp.Or(cfg.goodbyeTime, 500*time.Millisecond)
	cfg.departureTime = cmp.Or(cfg.departureTime, 500*time.Millisecond)
	if cfg.now == nil {
		cfg.now = time.Now
	}
	return nil
}

func newHTTPClient(dial time.Duration) *http.Client {
	return nodehttp.NewClient(nodehttp.Options{DialTimeout: dial, DialsMax: 64, IdlePerHost: 256})
}

// Close ends loads in progress, waits for them, drops connections and forgets everything
// that is held. Call it when Run has returned and no request is served any more; Get then
// returns kvstore.ErrClosed. It does not end readers of streamed values: their context does.
func (n *Node) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.stopBase()
	n.loads.Wait()
	n.streams.Wait()
	n.fetcher.http.CloseIdleConnections()
	n.peerHTTP.CloseIdleConnections()
	n.forward.Close()
	forgetGroup(n.owned.group)
	forgetGroup(n.mirror.group)
	n.memory.Close() // groupcache never forgets a group, nor what it refers to
	return nil
}

// Forward returns a handler that passes a request on to the nearest live database node, as
// package forward does. The caller decides which requests may be forwarded.
func (n *Node) Forward() *forward.Handler { return n.forward }
