package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/server"
)

// Cluster is a cluster inside the test's process.
type Cluster struct {
	DBs    []*server.Database
	Caches []*server.Cache
}

// Start runs dbs database nodes and caches cache nodes, and returns when all are ready. They
// are closed when the test ends.
func Start(t testing.TB, dbs, caches int) *Cluster {
	t.Helper()
	c := &Cluster{}
	logger := Logger(t)
	var peers []server.Peer
	var cfgs []server.DatabaseConfig
	for i := range dbs {
		name := fmt.Sprintf("n%d", i+1)
		cfg := server.DatabaseConfig{Name: name, DataDir: filepath.Join(t.TempDir(), name), Listen: FreeAddr(t), PeerListen: FreeAddr(t), Logger: logger}
		peers = append(peers, server.Peer{Name: name, URL: "http://" + cfg.PeerListen})
		cfgs = append(cfgs, cfg)
	}
	var urls []string
	for _, cfg := range cfgs {
		cfg.InitialCluster = peers
		d, err := server.StartDatabase(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeNode(t, d.Name(), d.Close) })
		c.DBs = append(c.DBs, d)
		urls = append(urls, d.URL())
	}
	for i := range caches {
		n, err := server.StartCache(context.Background(), server.CacheConfig{Name: fmt.Sprintf("c%d", i+1), Listen: "127.0.0.1:0", Nodes: urls[:1], Logger: logger})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { closeNode(t, n.Name(), n.Close) })
		c.Caches = append(c.Caches, n)
	}
	for _, d := range c.DBs {
		Eventually(t, d.Name()+" is ready", func() error { return d.Ready(context.Background()) })
	}
	for _, n := range c.Caches {
		Eventually(t, n.Name()+" is ready", func() error { return n.Ready(context.Background()) })
	}
	return c
}

func closeNode(t testing.TB, name string, f func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := f(ctx); err != nil {
		t.Errorf("%s stopped by itself: %v", name, err)
	}
}

// Client returns a client of all database nodes.
func (c *Cluster) Client(t testing.TB) *client.Client {
	t.Helper()
	var urls []string
	for _, d := range c.DBs {
		urls = append(urls, d.URL())
	}
	return Client(t, urls...)
}

// Client returns a client of the given nodes.
func Client(t testing.TB, urls ...string) *client.Client {
	t.Helper()
	cl, err := client.New(client.Config{Endpoints: urls})
	if err != nil {
		t.Fatal(err)
	}
	return cl
}

// Logger writes warnings to the test's log, or with ONCEKV_TEST_LOG=debug (info, …) everything
// from that level on.
func Logger(t testing.TB) *slog.Logger {
	level := slog.LevelWarn
	if s := os.Getenv("ONCEKV_TEST_LOG"); s != "" {
		if err := level.UnmarshalText([]byte(strings.ToUpper(s))); err != nil {
			t.Fatalf("ONCEKV_TEST_LOG: %v", err)
		}
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level}))
}
