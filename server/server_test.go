package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

func fetch(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// The walkthrough: put at one node, get from every other.
func TestCluster_PutOnce_ReadEverywhere(t *testing.T) {
	c := clustertest.Start(t, 3, 3)
	ctx := clustertest.WithTimeout(t)
	if a, err := c.Client(t).PutBytes(ctx, "foo", []byte("bar"), client.PutOptions{}); err != nil || !a.Created || a.Revision != 1 {
		t.Fatalf("put: %+v, %v", a, err)
	}
	var urls []string
	for _, d := range c.DBs {
		urls = append(urls, d.URL())
	}
	for _, n := range c.Caches {
		urls = append(urls, n.URL())
	}
	for _, u := range urls {
		if code, body := fetch(t, u+"/key/foo"); code != 200 || body != "bar" {
			t.Errorf("%s: %d %q", u, code, body)
		}
		_, err := clustertest.Client(t, u).PutBytes(ctx, "foo", []byte("other"), client.PutOptions{})
		if !errors.Is(err, api.ErrConflict) {
			t.Errorf("%s: second put of other bytes: %v", u, err)
		}
	}
}

// closeMax bounds the stop of a node: many times what it takes on a free machine, and far
// less than a hang.
const closeMax = 30 * time.Second

// Nodes stop one after the other, the last without a leader, each within its time.
func TestDatabase_Close_StaysInItsTime(t *testing.T) {
	var dbs []*server.Database
	var peers []server.Peer
	var cfgs []server.DatabaseConfig
	for i := range 3 {
		cfg := server.DatabaseConfig{Name: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(t.TempDir(), "d"), Listen: clustertest.FreeAddr(t), PeerListen: clustertest.FreeAddr(t), Logger: clustertest.Logger(t)}
		peers = append(peers, server.Peer{Name: cfg.Name, URL: "http://" + cfg.PeerListen})
		cfgs = append(cfgs, cfg)
	}
	for _, cfg := range cfgs {
		cfg.InitialCluster = peers
		d, err := server.StartDatabase(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		dbs = append(dbs, d)
	}
	for _, d := range dbs {
		clustertest.Eventually(t, d.Name()+" is ready", func() error { return d.Ready(context.Background()) })
	}
	for _, d := range dbs {
		ctx, cancel := context.WithTimeout(context.Background(), 3500*time.Millisecond)
		start := time.Now()
		if err := d.Close(ctx); err != nil {
			t.Errorf("%s: %v", d.Name(), err)
		}
		cancel()
		took := time.Since(start)
		if took > closeMax {
			t.Errorf("%s took %v to close", d.Name(), took)
		}
		t.Logf("%s closed in %v", d.Name(), took)
		select {
		case <-d.Done():
		default:
			t.Errorf("%s is closed but not done", d.Name())
		}
	}
}

// A node that comes back at other addresses tells the cluster by itself.
func TestDatabase_NewAddresses_AreAnnounced(t *testing.T) {
	dir := t.TempDir()
	start := func() *server.Database {
		d, err := server.StartDatabase(context.Background(), server.DatabaseConfig{Name: "n1", DataDir: dir, Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", Logger: clustertest.Logger(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close(context.Background()) })
		clustertest.Eventually(t, "n1 is ready", func() error { return d.Ready(context.Background()) })
		return d
	}
	if err := start().Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	d := start()
	cl := clustertest.Client(t, d.URL())
	clustertest.Eventually(t, "the new addresses are in the member list", func() error {
		ms, err := cl.Members(clustertest.WithTimeout(t))
		if err != nil {
			return err
		}
		if m := ms.Members[0]; m.ClientURL != d.URL() || m.PeerURL != d.PeerURL() {
			return fmt.Errorf("%+v", m)
		}
		return nil
	})
}

func TestDatabase_DirectoryInUse_IsRefused(t *testing.T) {
	cfg := server.DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0"}
	d, err := server.StartDatabase(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(context.Background())
	if _, err := server.StartDatabase(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second start: %v", err)
	}
}

// A cache node without a database node says so, and works as soon as there is one.
func TestCache_StartsBeforeItsDatabase(t *testing.T) {
	addr, peer := clustertest.FreeAddr(t), clustertest.FreeAddr(t)
	c, err := server.StartCache(context.Background(), server.CacheConfig{Name: "c1", Listen: "127.0.0.1:0", Nodes: []string{"http://" + addr}, Logger: clustertest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if code, body := fetch(t, c.URL()+"/readyz"); code != 503 {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, body := fetch(t, c.URL()+"/key/foo"); code != 503 || !strings.Contains(body, "detail") {
		t.Errorf("get: %d %s", code, body)
	}
	if code, body := fetch(t, c.URL()+"/livez"); code != 200 {
		t.Errorf("livez: %d %s", code, body)
	}
	d, err := server.StartDatabase(context.Background(), server.DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: addr, PeerListen: peer, Logger: clustertest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close(context.Background())
	clustertest.Eventually(t, "the cache is ready", func() error { return c.Ready(context.Background()) })
	clustertest.Eventually(t, "an absence is confirmed", func() error {
		if code, body := fetch(t, c.URL()+"/key/foo"); code != 404 {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}
