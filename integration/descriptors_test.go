package integration

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/clustertest"
)

// limited runs a command with a limit of open files. Go raises the soft limit to the hard one,
// so it lowers both.
func limited(files int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d; exec "$@"`, files), "sh"}
}

// besiege opens connections of all kinds, which stay until the test ends or the node closes
// them.
func besiege(t *testing.T, addr string, connections int) {
	t.Helper()
	texts := []string{
		"",
		"GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Half: ",
		"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"PUT /key/crowd HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nhalf",
		"POST /raft HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf",
		"GET /changes?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"no request at all\r\n\r\n",
	}
	for i := range connections {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err) // a node at its limit accepts and says so
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		_, _ = io.WriteString(conn, texts[i%len(texts)])
	}
}

// As many connections as possible, to both ports of a node that may have 200 files open, keep
// it neither from snapshots nor from answering afterwards.
func TestDescriptors_ConnectionsLeaveFiles(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewProcesses(t, bin, 1, 0, "--snapshot-log-bytes", "64KiB")
	db := cluster.DBs[0]
	db.Under = limited(200)
	cluster.StartAll()
	snapshots := func() string {
		names, err := filepath.Glob(filepath.Join(db.Dir, "snap", "*.snap"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(names, " ")
	}
	before := snapshots()
	besiege(t, db.Addr, 300)
	besiege(t, db.Peer, 300)
	cl := clustertest.Client(t, db.URL())
	for i := range 40 {
		if _, err := cl.PutBytes(clustertest.WithTimeout(t), fmt.Sprint("k", i), pattern(fmt.Sprint(i), 20<<10), client.PutOptions{}); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
	}
	clustertest.Eventually(t, "a snapshot", func() error {
		if now := snapshots(); now == before {
			return fmt.Errorf("there are %s", now)
		}
		return nil
	})
	if !db.Running() {
		t.Fatalf("the node has stopped: %s", db.Log())
	}
	if code, _ := db.Terminate(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Too low a limit is reported at the start, with the exit code of wrong settings, because a
// restart does not help.
func TestDescriptors_TooFewAreRefused(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"serve", "--data-dir", t.TempDir(), "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0"},
		{"cache", "--listen", "127.0.0.1:0"},
		{"admin", "--listen", "127.0.0.1:0"},
		{"dev", "--data-dir", t.TempDir(), "--port-offset", "22000"},
	} {
		t.Run(args[0], func(t *testing.T) {
			line := append(append(limited(64), bin), args...)
			cmd := exec.CommandContext(clustertest.WithTimeout(t), line[0], line[1:]...)
			said, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != 2 || !strings.Contains(string(said), "ulimit -n") || !strings.Contains(string(said), "64") {
				t.Errorf("exit code %d: %s", code, said)
			}
		})
	}
}

// peerStream returns another cache node's request for a stream.
func peerStream(t *testing.T, cache *clustertest.Process) (request string) {
	t.Helper()
	clustertest.Eventually(t, "the cache node knows its history", func() error {
		resp, err := http.Get(cache.URL() + "/ping")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		history := resp.Header.Get(api.HeaderHistory)
		if history == "" {
			return errors.New("it names none")
		}
		request = "GET /peer/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: oncekv-peer/2\r\n" + api.HeaderHistory + ": " + history + "\r\n\r\n"
		return nil
	})
	return request
}

// Silent streams between cache nodes do not stop a cache node answering.
func TestConnections_SilentPeerStreams(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewProcesses(t, bin, 1, 1)
	cache := cluster.Caches[0]
	cache.Args = append(cache.Args, "--max-connections", "64")
	cluster.StartAll()
	question := peerStream(t, cache)
	for range 80 {
		conn, err := net.Dial("tcp", cache.Addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, question); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		_, _ = conn.Read(make([]byte, 1)) // its handler has run, or it was refused
	}
	clustertest.Eventually(t, "the cache answers", func() error { return answers(cache.URL() + "/ping") })
}

// A cache node opens a stream to ask something. A stream without a request does not stay.
func TestConnections_StreamWithoutQuestionEnds(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewProcesses(t, bin, 1, 1)
	cluster.StartAll()
	question := peerStream(t, cluster.Caches[0])
	conn, err := net.Dial("tcp", cluster.Caches[0].Addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, question); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(clustertest.Patience)); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(said), "HTTP/1.1 101 ") {
		t.Errorf("%q, %v", said, err)
	}
}

// Cache nodes whose streams to one another had to make room ask each other again.
func TestConnections_PeersReconnect(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewProcesses(t, bin, 1, 2)
	for _, c := range cluster.Caches {
		c.Args = append(c.Args, "--max-connections", "16")
	}
	cluster.StartAll()
	asked := cluster.Caches[0]
	database, cache := clustertest.Client(t, cluster.DBs[0].URL()), clustertest.Client(t, asked.URL())
	round := 0
	// byPeer reads new keys until the other cache node has answered one.
	byPeer := func() {
		t.Helper()
		stats, err := cache.CacheStats(clustertest.WithTimeout(t))
		if err != nil {
			t.Fatal(err)
		}
		before := stats.PeerLoads
		clustertest.Eventually(t, "a load from the other cache", func() error {
			for range 20 {
				round++
				key := fmt.Sprint("peer/", round)
				if _, err := database.PutBytes(clustertest.WithTimeout(t), key, []byte("v"), client.PutOptions{}); err != nil {
					t.Fatal(err)
				}
				if _, err := get(cache, key); err != nil {
					t.Fatal(err)
				}
			}
			if stats, err = cache.CacheStats(clustertest.WithTimeout(t)); err != nil || stats.PeerLoads == before {
				return fmt.Errorf("%d loads before, %d after, %v", before, stats.PeerLoads, err)
			}
			return nil
		})
	}
	byPeer()
	for _, c := range cluster.Caches {
		for range 40 {
			conn, err := net.Dial("tcp", c.Addr)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
		}
	}
	byPeer()
}
