package server

import (
	"context"
	"log/slog"
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
	// LimitMemory keeps the whole process within 1.25 × CacheBytes, 64 MiB, and
	// 32 KiB for each open connection, by setting the Go runtime's memory limit
	// for as long as the node runs. It is for a process that does nothing else.
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
	*light
	cfg  CacheConfig
	node *cachetier.Node
}

// StartCache binds a cache node's listener and returns; ctx bounds nothing but
// the call. The node finds its database nodes by itself. It returns a
// *SettingError for a configuration that cannot work.
func StartCache(ctx context.Context, cfg CacheConfig) (*Cache, error) {
	cfg, err := cfg.checked()
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
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
	c := &Cache{light: newLight(public), cfg: cfg, node: node}
	figures := metrics.NewCache(cfg.Name, c.figures)
	figures.Watch(public.ln.figures)
	figures.WatchLoads(node.Latencies)
	public.prepare(httpapi.NewCache(httpapi.CacheConfig{
		Reader: node, Forward: node.Forward(), PeerHandler: node.PeerHandler(), Stats: func() any { return c.figures() }, Ready: node.Ready, History: node.History, Logger: logger,
		Closing: c.streams, Metrics: figures.Handler(), Traffic: figures.Traffic, Hosts: names,
	}), logger)
	c.run(c.work)
	return c, nil
}

// work is everything that runs besides the listener.
func (c *Cache) work(ctx context.Context) error {
	var limiting sync.WaitGroup
	defer limiting.Wait()
	if c.cfg.LimitMemory {
		limiting.Go(func() { c.limitMemory(ctx) })
	}
	return c.node.Run(ctx)
}

func (c *Cache) figures() api.CacheStats {
	s := c.node.Stats()
	s.Version, s.UptimeSeconds = version.String(), time.Since(c.started).Seconds()
	return s
}

// Close says goodbye to the other nodes, and serves on until they ask this one
// no more, 1.5 s at most; then it finishes requests in flight and stops, all in
// the time that ctx allows. It returns why the node had stopped before, if it had.
func (c *Cache) Close(ctx context.Context) error {
	return c.close(func() {
		c.stop() // the heartbeat loop's last word is the goodbye
		select {
		case <-c.worked:
		case <-ctx.Done():
		}
		c.public.drain(ctx)
		c.running.Wait()
		_ = c.node.Close() // ends loads that nobody waits for any more
	})
}

// Name returns the node's name.
func (c *Cache) Name() string { return c.cfg.Name }

// Ready returns nil when a database node answers.
func (c *Cache) Ready(ctx context.Context) error { return c.node.Ready(ctx) }
