package server_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/server"
)

// Start refuses what Check refuses, with a *SettingError that names the flag, before it
// makes or binds anything.
func TestSettings_CheckAndStart_Agree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1")
	database := func(change func(*server.DatabaseConfig)) func() (error, error) {
		cfg := server.DatabaseConfig{Name: "n1", DataDir: dir, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"}
		change(&cfg)
		return func() (error, error) {
			d, err := server.StartDatabase(context.Background(), cfg)
			if err == nil {
				err = d.Close(context.Background())
			}
			return cfg.Check(), err
		}
	}
	cache := func(change func(*server.CacheConfig)) func() (error, error) {
		cfg := server.CacheConfig{Name: "c1", Listen: "127.0.0.1:0", Nodes: []string{"http://127.0.0.1:1"}}
		change(&cfg)
		return func() (error, error) {
			c, err := server.StartCache(context.Background(), cfg)
			if err == nil {
				err = c.Close(context.Background())
			}
			return cfg.Check(), err
		}
	}
	admin := func(change func(*server.AdminConfig)) func() (error, error) {
		cfg := server.AdminConfig{Listen: "127.0.0.1:0", Nodes: []string{"http://127.0.0.1:1"}}
		change(&cfg)
		return func() (error, error) {
			a, err := server.StartAdmin(context.Background(), cfg)
			if err == nil {
				err = a.Close(context.Background())
			}
			return cfg.Check(), err
		}
	}
	for _, c := range []struct {
		flag string
		both func() (error, error)
	}{
		{"name", database(func(c *server.DatabaseConfig) { c.Name = "a b" })},
		{"data-dir", database(func(c *server.DatabaseConfig) { c.DataDir = "" })},
		{"listen", database(func(c *server.DatabaseConfig) { c.Listen = ":http" })},
		{"listen", database(func(c *server.DatabaseConfig) { c.Listen = "0.0.0.0:0" })},
		{"peer-listen", database(func(c *server.DatabaseConfig) { c.PeerListen = "[::]:0" })},
		{"advertise", database(func(c *server.DatabaseConfig) { c.Advertise = "https://h:1" })},
		{"peer-advertise", database(func(c *server.DatabaseConfig) { c.PeerAdvertise = "http://h:1/x" })},
		{"peer-advertise", database(func(c *server.DatabaseConfig) { c.Advertise, c.PeerAdvertise = "http://h:1", "HTTP://H:01/" })},
		{"max-connections", database(func(c *server.DatabaseConfig) { c.MaxConnections = -1 })},
		{"max-value-bytes", database(func(c *server.DatabaseConfig) { c.MaxValueBytes = -1 })},
		{"snapshot-log-bytes", database(func(c *server.DatabaseConfig) { c.SnapshotLogBytes = -1 })},
		{"scrub-interval", database(func(c *server.DatabaseConfig) { c.ScrubInterval = time.Millisecond })},
		{"join", database(func(c *server.DatabaseConfig) { c.Join = []string{"http://h:1", ""} })},
		{"join", database(func(c *server.DatabaseConfig) {
			c.Join, c.InitialCluster = []string{"http://h:1"}, []server.Peer{{Name: "n1", URL: "http://h:2"}}
		})},
		{"learner", database(func(c *server.DatabaseConfig) { c.Learner = true })},
		{"initial-cluster", database(func(c *server.DatabaseConfig) { c.InitialCluster = []server.Peer{{Name: "n2", URL: "http://h:2"}} })},
		{"initial-cluster", database(func(c *server.DatabaseConfig) {
			c.PeerAdvertise, c.InitialCluster = "http://h:1", []server.Peer{{Name: "n1", URL: "http://h:2"}}
		})},
		{"name", cache(func(c *server.CacheConfig) { c.Name = "" })},
		{"listen", cache(func(c *server.CacheConfig) { c.Listen = ":0" })},
		{"advertise", cache(func(c *server.CacheConfig) { c.Advertise = "http://h" })},
		{"nodes", cache(func(c *server.CacheConfig) { c.Nodes = nil })},
		{"nodes", cache(func(c *server.CacheConfig) { c.Nodes = []string{"http://169.254.169.254"} })},
		{"cache-bytes", cache(func(c *server.CacheConfig) { c.CacheBytes = 1 << 62 })},
		{"listen", admin(func(c *server.AdminConfig) { c.Listen = "127.0.0.1" })},
		{"nodes", admin(func(c *server.AdminConfig) { c.Nodes = []string{""} })},
		{"max-connections", admin(func(c *server.AdminConfig) { c.MaxConnections = -1 })},
	} {
		checked, started := c.both()
		for _, err := range []error{checked, started} {
			var setting *server.SettingError
			if !errors.As(err, &setting) || setting.Flag != c.flag {
				t.Errorf("%v is no *SettingError of --%s", err, c.flag)
			}
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a wrong setting has made %s: %v", dir, err)
	}
}

// The peer URL comes from the list, unless there is data.
func TestSettings_PeerURL_ComesFromTheListOnlyOnce(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := server.DatabaseConfig{Name: "n1", DataDir: filepath.Join(t.TempDir(), "n1"), Listen: "127.0.0.1:0", PeerListen: "0.0.0.0:" + port,
		InitialCluster: []server.Peer{{Name: "n1", URL: "http://LOCALHOST:" + port + "/"}}}
	for _, list := range [][]server.Peer{cfg.InitialCluster, {{Name: "n1", URL: "http://127.0.0.1:9"}}, {{Name: "n7", URL: "http://127.0.0.1:9"}}, nil} {
		cfg.InitialCluster = list
		d, err := server.StartDatabase(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(5 * time.Millisecond)
		for d.Ready(t.Context()) != nil {
			<-tick.C
		}
		tick.Stop()
		if got := d.PeerURL(); got != "http://localhost:"+port {
			t.Errorf("with the list %v others are told %s", list, got)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		if err := d.Close(ctx); err != nil {
			t.Error(err)
		}
		cancel()
	}
}
