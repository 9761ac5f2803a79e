package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/server"
)

// askAs sends a request to a node with another Host, as a web page under that name would,
// and returns the status and the body.
func askAs(t *testing.T, method, nodeURL, path, host string) (int, string) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(nodeURL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(closeMax))
	fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nOrigin: http://%s\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx", method, path, host, host)
	resp, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s %s%s as %s: %v", method, nodeURL, path, host, err)
	}
	defer resp.Body.Close()
	body := make([]byte, 1000)
	n, _ := io.ReadFull(resp.Body, body)
	return resp.StatusCode, string(body[:n])
}

// A web page that points its own name at a node gets nothing, from any listener of any kind
// of node.
func TestHosts_RebindingIsRefusedEverywhere(t *testing.T) {
	c := clustertest.Start(t, 1, 1)
	a := startAdmin(t, c.DBs[0].URL())
	clustertest.Eventually(t, "the admin is ready", func() error { return a.Ready(context.Background()) })
	const attacker = "attacker.example:11000"
	for _, tt := range []struct{ method, node, path string }{
		{"PUT", c.DBs[0].URL(), "/key/x"}, {"GET", c.DBs[0].URL(), "/key/x"}, {"GET", c.DBs[0].URL(), "/metrics"}, {"DELETE", c.DBs[0].URL(), "/members/n1"}, {"OPTIONS", c.DBs[0].URL(), "*"},
		{"PUT", c.Caches[0].URL(), "/key/x"}, {"GET", c.Caches[0].URL(), "/key/x"}, {"GET", c.Caches[0].URL(), "/metrics"}, {"GET", c.Caches[0].URL(), "/peer/ping"},
		{"PUT", a.URL(), "/api/key/x"}, {"GET", a.URL(), "/api/key/x"}, {"GET", a.URL(), "/"}, {"GET", a.URL(), "/events"}, {"GET", a.URL(), "/metrics"},
		{"GET", c.DBs[0].PeerURL(), "/oncekv/identity"}, {"POST", c.DBs[0].PeerURL(), "/raft"}, {"GET", c.DBs[0].PeerURL(), "/raft/probing"},
	} {
		if status, body := askAs(t, tt.method, tt.node, tt.path, attacker); status != http.StatusMisdirectedRequest || !strings.Contains(body, api.ProblemMisdirected) {
			t.Errorf("%s %s%s as %s: %d %s", tt.method, tt.node, tt.path, attacker, status, body)
		}
	}
	if status, body := fetch(t, c.DBs[0].URL()+"/key/x"); status != http.StatusNotFound {
		t.Errorf("the attacked key: %d %s", status, body)
	}
	for _, node := range []string{c.DBs[0].URL(), c.Caches[0].URL(), a.URL()} {
		for _, path := range []string{"/livez", "/readyz", "/ping"} {
			if status, body := askAs(t, "GET", node, path, attacker); status != http.StatusOK {
				t.Errorf("a probe of %s%s: %d %s", node, path, status, body)
			}
		}
		put := "/key/y"
		if node == a.URL() {
			put = "/api/key/y"
		}
		_, port, _ := net.SplitHostPort(strings.TrimPrefix(node, "http://"))
		for _, host := range []string{"localhost:" + port, "localhost", "127.0.0.1:" + port, "[::1]:" + port, "10.1.2.3"} {
			if status, body := askAs(t, "PUT", node, put, host); status != http.StatusOK && status != http.StatusCreated {
				t.Errorf("a put at %s as %s: %d %s", node, host, status, body)
			}
		}
	}
}

// A node answers to the names in its own URLs, in those of its seeds and members, and to
// those it is given. A new member's names count at once.
func TestHosts_NamesOfANode(t *testing.T) {
	_, port, _ := net.SplitHostPort(clustertest.FreeAddr(t))
	d, err := server.StartDatabase(context.Background(), server.DatabaseConfig{
		Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:" + port, Advertise: "http://n1.example:" + port, PeerListen: "127.0.0.1:0", PeerAdvertise: "http://peers.example:1",
		AllowedHosts: []string{"kv.example", ".below.example"}, Logger: clustertest.Logger(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close(context.Background()) })
	clustertest.Eventually(t, "n1 is ready", func() error { return d.Ready(context.Background()) })
	node := "http://127.0.0.1:" + port
	wantStatus := func(node, host string, want int) {
		t.Helper()
		if status, body := askAs(t, "GET", node, "/stats", host); status != want {
			t.Errorf("%s as %s: %d %s", node, host, status, body)
		}
	}
	for _, host := range []string{"n1.example", "N1.Example:80", "peers.example", "kv.example:443", "a.below.example", "below.example"} {
		wantStatus(node, host, http.StatusOK)
	}
	wantStatus(node, "n2.example", http.StatusMisdirectedRequest)
	cl := clustertest.Client(t, node)
	if _, _, err := cl.AddMember(clustertest.WithTimeout(t), api.AddMember{Name: "n2", ID: "00000000000000a2", PeerURL: "http://n2-peers.example:1", ClientURL: "http://n2.example:1", Role: api.RoleLearner}); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"n2.example", "n2-peers.example:12000"} { // a moment later, when the node knows the member
		clustertest.Eventually(t, "the new member's name counts", func() error {
			if status, body := askAs(t, "GET", node, "/stats", host); status != http.StatusOK {
				return fmt.Errorf("%s: %d %s", host, status, body)
			}
			return nil
		})
	}

	cache, err := server.StartCache(context.Background(), server.CacheConfig{Name: "c1", Listen: "127.0.0.1:0", Nodes: []string{node, "http://seed.example:1"}, AllowedHosts: []string{"c.example"}, Logger: clustertest.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cache.Close(context.Background()) })
	for _, host := range []string{"seed.example", "c.example"} {
		wantStatus(cache.URL(), host, http.StatusOK)
	}
	clustertest.Eventually(t, "the cache has learned of the members", func() error {
		if status, body := askAs(t, "GET", cache.URL(), "/stats", "n2.example"); status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
	wantStatus(cache.URL(), "kv.example", http.StatusMisdirectedRequest)
}

// An AllowedHosts entry that is not a name is refused at the start.
func TestHosts_BadEntryIsRefused(t *testing.T) {
	bad := []string{"http://a.example"}
	if _, err := server.StartDatabase(context.Background(), server.DatabaseConfig{Name: "n1", DataDir: t.TempDir(), Listen: "127.0.0.1:0", PeerListen: "127.0.0.1:0", AllowedHosts: bad}); err == nil {
		t.Error("a database node starts")
	}
	if _, err := server.StartCache(context.Background(), server.CacheConfig{Name: "c1", Listen: "127.0.0.1:0", Nodes: []string{"http://127.0.0.1:1"}, AllowedHosts: bad}); err == nil {
		t.Error("a cache node starts")
	}
	if _, err := server.StartAdmin(context.Background(), server.AdminConfig{Listen: "127.0.0.1:0", Nodes: []string{"http://127.0.0.1:1"}, AllowedHosts: bad}); err == nil {
		t.Error("an admin starts")
	}
}
