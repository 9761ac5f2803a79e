package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/cachetier"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/httpapi"
	"github.com/Focinfi/oncekv/internal/metrics"
	"github.com/Focinfi/oncekv/internal/version"
)

// CacheConfig describes a cache node. Name, Listen and Nodes are required.
type CacheConfig struct {
	Name      string
	Listen    string // host:port; port 0 chooses a free one
	Advertise string // URL for other caches, default from Listen
	Nodes     []string
	// CacheBytes bounds the memory for records, default 64 MiB.
	CacheBytes int64
	// MaxConnections is as in DatabaseConfig.
	MaxConnections int
	Logger         *slog.Logger
}

// Cache is a running cache node. All methods may be called from any
// goroutine.
type Cache struct {
	cfg     CacheConfig
	public  *listener
	node    *cachetier.Node
	started time.Time

	stop     context.CancelFunc
	streams  chan struct{} // closed by Close: answers that would go on for ever end
	running  sync.WaitGroup
	closing  sync.Once
	failOnce sync.Once
	done     chan struct{}
	err      error // set before done is closed
}

// StartCache binds a cache node's listener and returns; ctx bounds nothing but
// the call. The node finds its database nodes by itself.
func StartCache(ctx context.Context, cfg CacheConfig) (*Cache, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	logger := cfg.Logger.With("node", cfg.Name)
	public, err := listen(cfg.Listen, cfg.Advertise, "clients", cfg.MaxConnections)
	if err != nil {
		return nil, err
	}
	node, err := cachetier.New(cachetier.NodeConfig{Name: cfg.Name, URL: public.url, Nodes: cfg.Nodes, CacheBytes: cfg.CacheBytes, Logger: logger})
	if err != nil {
		_ = public.ln.Close()
		return nil, err
	}
	c := &Cache{cfg: cfg, public: public, node: node, started: time.Now(), done: make(chan struct{}), streams: make(chan struct{})}
	figures := metrics.NewCache(cfg.Name, c.figures)
	figures.Watch(public.ln.figures)
	public.prepare(httpapi.NewCache(httpapi.CacheConfig{
		Reader: node, Forward: node.Forward(), PeerHandler: node.PeerHandler(), Stats: func() any { return c.figures() }, Ready: node.Ready, Logger: logger,
		Closing: c.streams, Metrics: figures.Handler(), Traffic: figures.Traffic,
	}), logger)
	runCtx, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.running.Go(func() { c.finish(public.serve()) })
	c.running.Go(func() { c.finish(node.Run(runCtx)) })
	return c, nil
}

// finish ends the node when a part of it ends by itself with an error.
func (c *Cache) finish(err error) {
	if err == nil {
		return
	}
	c.failOnce.Do(func() {
		c.err = err
		c.stop()
		_ = c.public.srv.Close()
		close(c.done)
	})
}

func (c *Cache) figures() client.CacheStats {
	s := c.node.Stats()
	s.Version, s.UptimeSeconds = version.String(), time.Since(c.started).Seconds()
	return s
}

// Close says goodbye to the other nodes, so that nobody asks this one any
// more, finishes requests in flight as long as ctx allows, and stops. It
// returns why the node had stopped before, if it had.
func (c *Cache) Close(ctx context.Context) error {
	c.closing.Do(func() {
		close(c.streams)
		c.stop() // the heartbeat loop's last word is the goodbye
		c.public.drain(ctx)
		c.running.Wait()
		_ = c.node.Close() // ends loads that nobody waits for any more
		c.failOnce.Do(func() { close(c.done) })
	})
	<-c.done
	return c.err
}

// Done is closed when the node has stopped, by Close or by itself.
func (c *Cache) Done() <-chan struct{} { return c.done }

// Err says why the node stopped by itself; nil before Done is closed and
// after Close.
func (c *Cache) Err() error {
	select {
	case <-c.done:
		return c.err
	default:
		return nil
	}
}

// Name returns the node's name.
func (c *Cache) Name() string { return c.cfg.Name }

// URL returns where clients reach the node.
func (c *Cache) URL() string { return c.public.url }

// Ready returns nil when a database node answers.
func (c *Cache) Ready(ctx context.Context) error { return c.node.Ready(ctx) }
