package server

import (
	"cmp"
	"context"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/hosts"
	"github.com/Focinfi/oncekv/internal/version"
	"github.com/Focinfi/oncekv/server/metrics"
)

// CacheConfig describes a cache node. Name, Listen and Nodes are required.
type CacheConfig struct {
	Name      string
	Listen    string // host:port; port 0 chooses a free one
	Advertise string // URL for other caches, default from Listen
	Nodes     []string
	// CacheBytes bounds the memory for records, default 64 MiB.
	CacheBytes int64
	// LimitMemory keeps the whole process within 1.25 × CacheBytes + 64 MiB + 32 KiB for
	// each open connection. It sets the Go runtime's memory limit while the node runs, so
	// use it only in a process that does nothing else.
	LimitMemory bool
	// MaxConnections, Descriptors and AllowedHosts are as in DatabaseConfig.
	MaxConnections int
	Descriptors    *Descriptors
	AllowedHosts   []string
	Logger         *slog.Logger
}

// Cache is a running cache node. All methods may be called from any
// goroutine.
type Cache struct {
	*diskless
	cfg  CacheConfig
	node *cachetier.Node
}

// StartCache binds a cache node's listener and returns; ctx bounds only the call. The node
// finds its database nodes by itself. A configuration that cannot work returns a
// *SettingError.
func StartCache(ctx context.Context, cfg CacheConfig) (*Cache, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	logger := cfg.Logger.With("node", cfg.Name)
	files, err := cfg.Descriptors.orOwn(NodeCounts{Caches: 1})
	if err != nil {
		return nil, err
	}
	public, err := listen(cfg.Listen, cfg.Advertise, "clients", placesForAll(files.cache(cfg.MaxConnections, logger)), logger)
	if err != nil {
		return nil, listenError("listen", err)
	}
	node, err := cachetier.New(cachetier.NodeConfig{Name: cfg.Name, URL: public.url, Nodes: cfg.Nodes, CacheBytes: cfg.CacheBytes, Logger: logger})
	if err != nil {
		_ = public.ln.Close()
		return nil, err
	}
	names, err := hosts.New(hosts.Config{Allowed: cfg.AllowedHosts, URLs: append([]string{public.url, listenURL(cfg.Listen)}, cfg.Nodes...), Members: node.Databases})
	if err != nil {
		_ = node.Close()
		_ = public.ln.Close()
		return nil, err
	}
	c := &Cache{diskless: newDiskless(public), cfg: cfg, node: node}
	m := metrics.NewCache(cfg.Name, c.stats)
	m.Watch(public.ln.counts)
	m.WatchLoads(node.Latencies)
	public.prepare(httpapi.NewCache(httpapi.CacheConfig{
		Reader: node, Forward: node.Forward(), PeerHandler: node.PeerHandler(), Stats: func() any { return c.stats() }, Ready: node.Ready, History: node.History, Logger: logger,
		Closing: c.streams, Metrics: m.Handler(), Traffic: m.Traffic, Hosts: names,
	}), logger)
	c.run(c.work)
	return c, nil
}

// work runs everything but the listener.
func (c *Cache) work(ctx context.Context) error {
	var limiting sync.WaitGroup
	defer limiting.Wait()
	if c.cfg.LimitMemory {
		limiting.Go(func() { c.limitMemory(ctx) })
	}
	return c.node.Run(ctx)
}

func (c *Cache) stats() api.CacheStats {
	s := c.node.Stats()
	s.Version, s.UptimeSeconds = version.String(), time.Since(c.started).Seconds()
	return s
}

// Close tells the other nodes that this one leaves, and keeps serving until they stop
// asking it, at most 1.5 s. Then it finishes requests in flight and stops, all within ctx.
// It returns the reason if the node had already stopped by itself.
func (c *Cache) Close(ctx context.Context) error {
	return c.close(func() {
		c.stop() // the heartbeat loop ends with the goodbye
		select {
		case <-c.worked:
		case <-ctx.Done():
		}
		c.public.drain(ctx)
		c.running.Wait()
		_ = c.node.Close() // ends loads without waiters
	})
}

// Name returns the node's name.
func (c *Cache) Name() string { return c.cfg.Name }

// Ready returns nil if a database node answers.
func (c *Cache) Ready(ctx context.Context) error { return c.node.Ready(ctx) }

// What a cache node's process may use besides its records.
const (
	memoryConstant      = 64 << 20 // the program, loads, requests, and room for garbage
	memoryConnection    = 32 << 10 // each open connection: buffers, stacks, a request
	memoryGarbageShare  = 4        // room for garbage: a quarter of the records' memory
	memoryLimitInterval = time.Second
)

// memoryLimit returns the limit for the Go runtime. Without one, garbage may grow to the
// size of the live heap, and a full cache of 1 GiB would take 2 GiB.
func memoryLimit(cacheBytes int64, connections int) int64 {
	return cacheBytes + cacheBytes/memoryGarbageShare + memoryConstant + int64(connections)*memoryConnection
}

// limitMemory adjusts the process's memory limit to the number of open connections until
// ctx ends, then restores the old limit. If connections did not count, many of them would
// leave no room for garbage, and the collector would never rest.
func (c *Cache) limitMemory(ctx context.Context) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	cacheBytes := c.node.Stats().LimitBytes
	tick := time.NewTicker(memoryLimitInterval)
	defer tick.Stop()
	for at := int64(0); ; {
		if limit := memoryLimit(cacheBytes, c.public.ln.counts().Open); limit != at {
			debug.SetMemoryLimit(limit)
			at = limit
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
