package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/internal/frame"
)

// rubbish is what strangers and broken clients send.
func rubbish() map[string]string {
	var puts, gets []byte
	for i := range 200 {
		puts = frame.AppendPut(puts, &frame.Put{ID: uint32(i + 1), Key: fmt.Sprint("rubbish/", i), Value: []byte("v")})
		gets = frame.AppendGet(gets, &frame.Get{ID: uint32(i + 1), Key: fmt.Sprint("absent/", i)})
	}
	framed := func(path string, body []byte) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, api.ContentTypeFrames, len(body), body[:len(body)-3])
	}
	lines := func(path, body string) string {
		return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: %d\r\n\r\n%s", path, 2*len(body), body)
	}
	cut := func(line, header string) string {
		return line + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n" + header + "\r\nhalf"
	}
	return map[string]string{
		"nothing":           "",
		"TLS":               "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("\x00", 200),
		"zeros":             strings.Repeat("\x00", 4096),
		"HTTP/2":            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"no host":           "GET / HTTP/1.1\r\n\r\n",
		"bad escape":        "GET /key/%zz HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"bad chunk":         "PUT /key/rubbish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"cut chunk":         "PUT /key/rubbish HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf",
		"two lengths":       "PUT /key/rubbish HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"long header":       "GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + strings.Repeat("x", 128<<10) + "\r\n\r\n",
		"half header":       "GET /ping HTTP/1.1\r\nHost: localhost\r\nX-Half: ",
		"cut put":           cut("PUT /key/rubbish", ""),
		"cut post":          cut("POST /key", "Content-Type: application/json\r\n"),
		"cut heartbeat":     cut("POST /caches", "Content-Type: application/json\r\n"),
		"cut member":        cut("POST /members", "Content-Type: application/json\r\n"),
		"cut frames of put": framed("/keys", puts),
		"cut frames of get": framed("/keys/get", gets),
		"cut in a frame":    framed("/keys/get", gets[:len(gets)/2+5]),
		"no frames":         framed("/keys", []byte(strings.Repeat("\xff", 100))),
		"cut lines of put":  lines("/keys", strings.Repeat(`{"key":"rubbish/line","value":"v"}`+"\n", 100)),
		"cut lines of get":  lines("/keys/get", strings.Repeat(`{"key":"absent"}`+"\n", 100)),
		"no lines":          lines("/keys", "{{{{\n"),
		"changes":           "GET /changes?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"events":            "GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"raft":              cut("POST /raft", "X-Server-Version: 3.5.0\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: 1\r\n"),
		"raft stream":       "GET /raft/stream/message/1 HTTP/1.1\r\nHost: localhost\r\nX-Server-Version: 3.5.0\r\nX-Raft-To: 1\r\nX-Etcd-Cluster-ID: 1\r\n\r\n",
		"raft probing":      "GET /raft/probing HTTP/1.1\r\nHost: localhost\r\n\r\n",
		"peer members":      cut("POST /oncekv/members", "Oncekv-Cluster: 1\r\n"),
		"peer stream":       "GET /peer/stream HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: oncekv-peer/1\r\n\r\n" + strings.Repeat("\xff", 64),
		"peer record":       "GET /peer/record?key=!! HTTP/1.1\r\nHost: localhost\r\n\r\n",
	}
}

// throw sends text, reads for a moment and closes the connection.
func throw(t *testing.T, addr, text string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(conn, text)
	_, _ = conn.Read(make([]byte, 1<<10))
	_ = conn.(*net.TCPConn).SetLinger(0) // a reset
}

// Whatever strangers send to any port of any kind of node, each line of its log is one JSON
// object, and none is a warning or an error: those concern the node.
func TestLog_StrangersAreNoErrors(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewProcesses(t, bin, 1, 1)
	cluster.StartAll()
	admin := cluster.NewAdmin()
	admin.Start()
	admin.WaitReady()
	db, cache := cluster.DBs[0], cluster.Caches[0]
	const rounds = 10
	for range rounds {
		for name, text := range rubbish() {
			for _, addr := range []string{db.Addr, db.Peer, cache.Addr, admin.Addr} {
				if name == "cut member" && addr != db.Peer {
					continue // a node that is told to take in a member may say so
				}
				throw(t, addr, text)
			}
		}
	}
	for _, n := range []*clustertest.Process{db, cache, admin} {
		mustLogQuietly(t, n, 4*rounds)
	}
}

// mustLogQuietly checks every line of a node's log.
func mustLogQuietly(t *testing.T, n *clustertest.Process, most int) {
	t.Helper()
	lines := bytes.FieldsFunc([]byte(n.Log()), func(r rune) bool { return r == '\n' })
	for _, line := range lines {
		var entry struct{ Level string }
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Errorf("%s logged %q, which is no JSON: %v", n.Name, line, err)
		}
		if entry.Level == "ERROR" || entry.Level == "WARN" {
			t.Fatalf("%s logged %s", n.Name, line)
		}
	}
	if len(lines) > max(1, most) {
		t.Errorf("%s logged %d lines, the last is %s", n.Name, len(lines), lines[len(lines)-1])
	}
}
