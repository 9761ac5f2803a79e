package cachetier

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/kvstore"
)

// valuesOf puts a value of each size under a key that owner owns.
func valuesOf(t *testing.T, keys *fakeKeys, n, owner *testNode, sizes []int) []fakeValue {
	t.Helper()
	var values []fakeValue
	for i, key := range ownedKeys(t, n, owner, len(sizes)) {
		values = append(values, keys.put(key, pattern(sizes[i])))
	}
	return values
}

// Many callers ask for many records at once: every one gets the right one, and
// one connection is enough for all but the long ones.
func TestStream_CarriesManyQuestionsOverOneConnection(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n, owner := nodes[0], nodes[1]
	var streams, alone atomic.Int64
	count := func(r *http.Request) {
		switch r.URL.Path {
		case peerStream:
			streams.Add(1)
		case peerRecord:
			alone.Add(1)
		}
	}
	owner.gate.Store(&count)
	var sizes []int
	for i := range 200 {
		sizes = append(sizes, i*7%2000)
	}
	short := len(sizes)
	for _, around := range []int{recordInFrameMax, inlineBytesMax} {
		for _, more := range []int{-200, -72, 0} { // a header takes about 90 bytes
			sizes = append(sizes, around+more)
		}
	}
	values := valuesOf(t, keys, n, owner, sizes)
	var callers sync.WaitGroup
	for i, want := range values {
		for range 3 {
			callers.Go(func() { mustGet(t, n, want) })
		}
		if i < 100 {
			callers.Go(func() {
				key := kvstore.Key(fmt.Sprint("absent-", i))
				if _, _, err := n.Get(t.Context(), key, kvstore.Linearizable); !errors.Is(err, kvstore.ErrNotFound) {
					t.Errorf("absent: %v", err)
				}
			})
		}
	}
	callers.Wait()
	if streams.Load() != 1 {
		t.Errorf("%d streams, want 1", streams.Load())
	}
	if got := alone.Load(); got == 0 || got > int64(3*(len(sizes)-short)) {
		t.Errorf("%d records were asked for alone, want some of the long ones and no others", got)
	}
	if n.counters.peerErrors.Load() != 0 {
		t.Errorf("%d peer errors", n.counters.peerErrors.Load())
	}
	for _, want := range values {
		if reads := db.readsOf(string(want.meta.Key)); want.meta.Size < inlineBytesMax && reads != 1 {
			t.Errorf("%d database reads of a value of %d bytes", reads, want.meta.Size)
		}
	}
}

// An older node has no streams. It is asked for each record by itself, and for
// a stream again when it may have been replaced.
func TestStream_OlderNodeIsAskedOverHTTP(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 2, nil, newFakeDB(t, keys))
	n, owner := nodes[0], nodes[1]
	owner.plain.Store(true)
	var tries, alone atomic.Int64
	owned := ownedKeys(t, n, owner, 20)
	count := func(r *http.Request) {
		if r.URL.Path == peerRecord {
			alone.Add(1)
		} else if r.URL.Path == peerStream {
			tries.Add(1)
		}
	}
	owner.gate.Store(&count)
	for _, key := range owned[:10] {
		if source := mustGet(t, n, keys.put(key, []byte("v"))); source != sourcePeer {
			t.Errorf("source %s", source)
		}
	}
	if alone.Load() != 10 || n.counters.peerErrors.Load() != 0 {
		t.Errorf("%d questions over HTTP, %d errors", alone.Load(), n.counters.peerErrors.Load())
	}
	owner.plain.Store(false)
	n.view.Load().peers[owner.server.URL].probe(t.Context())
	for _, key := range owned[10:] {
		if source := mustGet(t, n, keys.put(key, []byte("v"))); source != sourcePeer {
			t.Errorf("source %s", source)
		}
	}
	if alone.Load() != 10 || tries.Load() != 1 {
		t.Errorf("%d questions over HTTP and %d streams after the owner was replaced", alone.Load(), tries.Load())
	}
}

// fakePeer is a cache node in whose place talk speaks, once a connection has
// become a stream.
func fakePeer(t *testing.T, talk func(conn net.Conn, r *frame.Reader)) (url string) {
	t.Helper()
	db := newFakeDB(t, newFakeKeys()) // a server will do
	db.onRequest(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.URL.Path != peerStream {
			http.Error(w, "not this time", http.StatusServiceUnavailable)
			return true
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", streamProtocol)
		talk(conn, frame.NewPeerReader(conn))
		return true
	})
	return db.URL
}

// Whatever a peer sends, the caller gets the value, and the node goes on.
func TestStream_WrongAnswersOfAPeerAreRefused(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	var want atomic.Pointer[fakeValue]
	record := func(change func(v *fakeValue)) []byte {
		v := *want.Load()
		v.body = bytes.Clone(v.body)
		change(&v)
		return append(encodeHeader(v.meta, false), v.body...)
	}
	for name, answer := range map[string]func(id uint32) []byte{
		"other bytes": func(id uint32) []byte {
			return frame.AppendPeer(nil, frame.PeerRecord, id, record(func(v *fakeValue) { v.body[0]++ }))
		},
		"another key's record": func(id uint32) []byte {
			return frame.AppendPeer(nil, frame.PeerRecord, id, record(func(v *fakeValue) { v.meta.Key = "another" }))
		},
		"a record cut short": func(id uint32) []byte {
			return frame.AppendPeer(nil, frame.PeerRecord, id, record(func(v *fakeValue) { v.body = v.body[:3] }))
		},
		"an unknown kind": func(id uint32) []byte { return frame.AppendPeer(nil, 99, id, "") },
		"a question":      func(id uint32) []byte { return frame.AppendPeer(nil, frame.PeerGet, id, []byte("k")) },
		"4 GiB announced": func(id uint32) []byte {
			return []byte{0xff, 0xff, 0xff, 0xff, byte(frame.PeerRecord), 0, 0, 0, byte(id)}
		},
		"half a frame": func(id uint32) []byte {
			return frame.AppendPeer(nil, frame.PeerRecord, id, record(func(*fakeValue) {}))[:50]
		},
		"nothing":            func(uint32) []byte { return nil },
		"busy":               func(id uint32) []byte { return frame.AppendPeer(nil, frame.PeerBusy, id, []byte("no database")) },
		"ask alone, but not": func(id uint32) []byte { return frame.AppendPeer(nil, frame.PeerLarge, id, "") },
		"an answer to nothing first": func(id uint32) []byte {
			return frame.AppendPeer(frame.AppendPeer(nil, frame.PeerAbsent, id+1000, ""), frame.PeerBusy, id, "")
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := newTestNode(t, nil, db)
			url := fakePeer(t, func(conn net.Conn, r *frame.Reader) {
				f, err := r.Next()
				if err != nil {
					t.Errorf("question: %v", err)
					return
				}
				conn.Write(answer(f.ID))
			})
			n.knows([]string{url})
			for i := 0; ; i++ {
				key := fmt.Sprint(name, i)
				if n.view.Load().ring.owner(key) == url {
					v := keys.put(key, []byte("the value"))
					want.Store(&v)
					break
				}
			}
			if source := mustGet(t, n, *want.Load()); source != sourceLoad {
				t.Errorf("source %s", source)
			}
		})
	}
}

// An owner that is silent delays nobody for PeerTimeout: the database is asked
// beside it. Whoever answers first is taken.
func TestStream_DatabaseIsAskedBesideASilentOwner(t *testing.T) {
	hedging := func(cfg *NodeConfig) { cfg.HedgeDelay = 50 * time.Millisecond }
	t.Run("the database is first", func(t *testing.T) {
		keys := newFakeKeys()
		nodes := newTestNodes(t, 2, hedging, newFakeDB(t, keys))
		n, owner := nodes[0], nodes[1]
		owner.hang.set()
		want := keys.put(string(keyOwnedBy(t, n, owner)), []byte("v"))
		began := time.Now()
		if source := mustGet(t, n, want); source != sourceLoad {
			t.Errorf("source %s", source)
		}
		if took := time.Since(began); took >= n.cfg.PeerTimeout {
			t.Errorf("took %v, the whole PeerTimeout", took)
		}
		if n.counters.peerHedges.Load() != 1 {
			t.Errorf("%d hedges", n.counters.peerHedges.Load())
		}
	})
	for name, found := range map[string]bool{"the owner is, and has it": true, "the owner is, and knows it is absent": false} {
		t.Run(name, func(t *testing.T) {
			keys := newFakeKeys()
			db, ownersDB := newFakeDB(t, keys), newFakeDB(t, keys)
			n, owner := newTestNode(t, hedging, db), newTestNode(t, hedging, ownersDB)
			connect(n, owner)
			key := keyOwnedBy(t, n, owner)
			if found {
				keys.put(string(key), []byte("v"))
			}
			asked, release := make(chan struct{}, 10), make(chan struct{})
			db.onRequest(func(_ http.ResponseWriter, r *http.Request, _ string) bool {
				asked <- struct{}{}
				select {
				case <-release:
				case <-r.Context().Done():
				}
				return false
			})
			owner.hang.set()
			type result struct {
				source string
				err    error
			}
			got := make(chan result, 1)
			go func() {
				_, source, err := n.Get(t.Context(), key, kvstore.Linearizable)
				got <- result{source, err}
			}()
			receive(t, "the database is asked", asked)
			owner.hang.release()
			r := receive(t, "an answer while the database has none", got)
			if found && (r.err != nil || r.source != sourcePeer) || !found && !errors.Is(r.err, kvstore.ErrNotFound) {
				t.Errorf("%s, %v", r.source, r.err)
			}
			close(release)
		})
	}
}

// An owner whose database is slow is alive: it answers pings, nobody asks the
// database beside it, and it is asked on. A machine that stands still for longer
// than a ping may take makes it look silent: then it is given more time.
func TestStream_OwnerWithASlowDatabaseIsNotSilent(t *testing.T) {
	for delay := 50 * time.Millisecond; delay < patience/4; delay *= 3 {
		if slowOwnerIsAskedOn(t, delay) {
			return
		}
	}
	t.Error("the database is asked beside an owner that answers pings")
}

// slowOwnerIsAskedOn asks an owner that answers nothing but pings, until three of
// them are answered. It returns false if the database was asked too.
func slowOwnerIsAskedOn(t *testing.T, delay time.Duration) bool {
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	n := newTestNode(t, func(cfg *NodeConfig) { cfg.HedgeDelay = delay }, db)
	pings, answer := make(chan struct{}, 100), make(chan struct{})
	want := atomic.Pointer[fakeValue]{}
	url := fakePeer(t, func(conn net.Conn, r *frame.Reader) {
		var id uint32
		for {
			f, err := r.Next()
			if err != nil {
				return
			}
			switch f.Kind {
			case frame.PeerGet:
				id = f.ID
			case frame.PeerPing:
				conn.Write(frame.AppendPeer(nil, frame.PeerPong, f.ID, ""))
				pings <- struct{}{}
			}
			select {
			case <-answer:
				v := want.Load()
				conn.Write(frame.AppendPeer(nil, frame.PeerRecord, id, append(encodeHeader(v.meta, false), v.body...)))
			default:
			}
		}
	})
	n.knows([]string{url})
	key := "slow-0"
	for i := 1; n.view.Load().ring.owner(key) != url; i++ {
		key = fmt.Sprint("slow-", i)
	}
	v := keys.put(key, []byte("v"))
	want.Store(&v)
	got := make(chan string, 1)
	go func() { got <- mustGet(t, n, v) }()
	for range 3 {
		select {
		case <-pings:
		case <-got:
			t.Logf("no answer to a ping in %v: the database was asked", delay)
			return false
		case <-time.After(patience):
			t.Fatal("no pings")
		}
	}
	close(answer)
	source := receive(t, "the answer", got)
	if n.counters.peerHedges.Load() != 0 {
		t.Logf("no answer to a ping in %v: the database was asked", delay)
		return false
	}
	if source != sourcePeer || db.readsOf(key) != 0 {
		t.Errorf("source %s, %d database reads", source, db.readsOf(key))
	}
	return true
}

// dialStream makes a stream to n by hand.
func dialStream(t *testing.T, n *testNode) (net.Conn, *frame.Reader) {
	t.Helper()
	conn, err := net.Dial("tcp", n.server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: c\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", peerStream, streamProtocol)
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	return conn, frame.NewPeerReader(r)
}

// A connection becomes a stream only for who asks for that in full: to anybody in
// between who passes requests on, what follows would still be HTTP.
func TestServed_RefusesHalfAnUpgrade(t *testing.T) {
	t.Parallel()
	n := newTestNode(t, nil, newFakeDB(t, newFakeKeys()))
	for name, tt := range map[string]struct {
		head string
		want int
	}{
		"no Connection":  {"HTTP/1.1\r\nHost: c\r\nUpgrade: " + streamProtocol, http.StatusUpgradeRequired},
		"another option": {"HTTP/1.1\r\nHost: c\r\nConnection: keep-alive, te\r\nUpgrade: " + streamProtocol, http.StatusUpgradeRequired},
		"HTTP/1.0":       {"HTTP/1.0\r\nHost: c\r\nConnection: Upgrade\r\nUpgrade: " + streamProtocol, http.StatusUpgradeRequired},
		"a length":       {"HTTP/1.1\r\nHost: c\r\nConnection: Upgrade\r\nUpgrade: " + streamProtocol + "\r\nContent-Length: 5", http.StatusBadRequest},
		"chunks":         {"HTTP/1.1\r\nHost: c\r\nConnection: Upgrade\r\nUpgrade: " + streamProtocol + "\r\nTransfer-Encoding: chunked", http.StatusBadRequest},
		"several":        {"HTTP/1.1\r\nHost: c\r\nConnection: keep-alive, UPGRADE\r\nUpgrade: " + streamProtocol, http.StatusSwitchingProtocols},
	} {
		conn, err := net.Dial("tcp", n.server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "GET %s %s\r\n\r\n", peerStream, tt.head)
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != tt.want {
			t.Errorf("%s: %v, %v, want %d", name, resp, err, tt.want)
		}
	}
}

func TestServed_EndsAStreamThatBreaksTheProtocol(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	n := newTestNode(t, nil, newFakeDB(t, keys))
	for name, sent := range map[string][]byte{
		"an answer":       frame.AppendPeer(nil, frame.PeerPong, 0, ""),
		"an unknown kind": frame.AppendPeer(nil, 77, 0, ""),
		"4 GiB announced": {0xff, 0xff, 0xff, 0xff, byte(frame.PeerGet), 0, 0, 0, 1},
	} {
		conn, r := dialStream(t, n)
		conn.Write(frame.AppendPeer(nil, frame.PeerPing, 42, ""))
		if f, err := r.Next(); err != nil || f.Kind != frame.PeerPong || f.ID != 42 {
			t.Fatalf("%s: %+v, %v, want a pong", name, f, err)
		}
		conn.Write(sent)
		_, err := r.Next()
		if err == nil || err != io.EOF && !errors.Is(err, net.ErrClosed) && !bytes.Contains([]byte(err.Error()), []byte("reset")) {
			t.Errorf("%s: %v, want the end of the stream", name, err)
		}
	}
	conn, r := dialStream(t, n)
	conn.Write(frame.AppendPeer(frame.AppendPeer(nil, frame.PeerGet, 5, []byte("a\x00b")), frame.PeerGet, 6, []byte("absent")))
	answers := map[uint32]frame.Kind{}
	for range 2 {
		f, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		answers[f.ID] = f.Kind
	}
	if answers[5] != frame.PeerBusy || answers[6] != frame.PeerAbsent {
		t.Errorf("answers of kinds %v to an impossible key and to one that is not set", answers)
	}
	mustGet(t, n, keys.put("k", []byte("v")))
}

// A peer that asks and does not read takes a bounded part of the memory.
func TestServed_QueueOfAPeerThatDoesNotReadIsBounded(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	n := newTestNode(t, nil, newFakeDB(t, keys))
	want := keys.put("k", pattern(60_000))
	mustGet(t, n, want)
	conn, r := dialStream(t, n)
	const questions = 500 // 30 MB of answers, more than sockets hold
	var ask []byte
	for i := range questions {
		ask = frame.AppendPeer(ask, frame.PeerGet, uint32(i+1), []byte("k"))
	}
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		conn.Write(ask)
	}()
	var s *served
	eventually(t, "the queue is full", func() bool {
		n.mu.Lock()
		for s = range n.serving {
		}
		n.mu.Unlock()
		if s == nil {
			return false
		}
		queued := s.out.Len()
		if queued > answersMax+frame.BytesMax {
			t.Fatalf("%d bytes are queued", queued)
		}
		return queued >= answersMax
	})
	for range questions {
		f, err := r.Next()
		if err != nil || f.Kind != frame.PeerRecord {
			t.Fatalf("%+v, %v", f.Kind, err)
		}
		if rec, err := decodeRecord("k", f.Body()); err != nil || rec.verify() != nil || binary.BigEndian.Uint64(f.Body()[10:]) != 60_000 {
			t.Fatalf("record: %v", err)
		}
	}
	<-writing
}

// A node that stops tells those who ask it. They take their last answers, and
// ask no more, until it is there again.
func TestNode_Run_LeavesItsPeersBeforeItEnds(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	db := newFakeDB(t, keys)
	nodes := newTestNodes(t, 2, nil, db)
	n, owner := nodes[0], nodes[1]
	owned := ownedKeys(t, n, owner, 4)
	if source := mustGet(t, n, keys.put(owned[0], []byte("v"))); source != sourcePeer {
		t.Fatalf("source %s", source)
	}
	slow := keys.put(owned[1], []byte("slow"))
	entered, release := make(chan struct{}), make(chan struct{})
	db.onRequest(func(_ http.ResponseWriter, _ *http.Request, key string) bool {
		if key == owned[1] {
			close(entered)
			<-release
		}
		return false
	})
	early := make(chan string, 1)
	go func() { early <- mustGet(t, n, slow) }()
	receive(t, "the owner loads", entered)

	ctx, stop := context.WithCancel(t.Context())
	stop()
	left := make(chan error, 1)
	go func() { left <- owner.Run(ctx) }()
	p := n.view.Load().peers[owner.server.URL]
	eventually(t, "the peer knows that the owner leaves", func() bool { return p.down.Load() })
	if source := mustGet(t, n, keys.put(owned[2], []byte("v"))); source != sourceLoad {
		t.Errorf("source %s of a key whose owner is leaving", source)
	}
	close(release)
	if source := receive(t, "the answer that was on its way", early); source != sourcePeer {
		t.Errorf("source %s of the answer that was on its way", source)
	}
	if err := receive(t, "the end of Run", left); err != nil {
		t.Error(err)
	}
	if err := owner.Ready(t.Context()); err == nil {
		t.Error("a node that is leaving is ready")
	}
	if p.probe(t.Context()); !p.down.Load() {
		t.Error("a node that is leaving answers probes")
	}
	if errs := n.counters.peerErrors.Load(); errs != 0 {
		t.Errorf("%d peer errors", errs)
	}
	owner.leaving.Store(false) // as another process under the same URL
	p.probe(t.Context())
	if source := mustGet(t, n, keys.put(owned[3], []byte("v"))); source != sourcePeer {
		t.Errorf("source %s after the owner came back", source)
	}
}

func TestNode_Close_EndsStreamsOfBothSides(t *testing.T) {
	t.Parallel()
	keys := newFakeKeys()
	nodes := newTestNodes(t, 2, nil, newFakeDB(t, keys))
	a, b := nodes[0], nodes[1]
	mustGet(t, a, keys.put(string(keyOwnedBy(t, a, b)), []byte("v")))
	mustGet(t, b, keys.put(string(keyOwnedBy(t, a, a)), []byte("v")))
	a.Close()
	if a.goStream(func() { t.Error("a stream of a closed node") }) {
		t.Error("a closed node begins streams")
	}
	if len(a.serving) != 0 || a.view.Load().peers[b.server.URL].current != nil {
		t.Error("streams are left after Close")
	}
	eventually(t, "the other side has noticed", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.serving) == 0
	})
	mustGet(t, b, keys.put(ownedKeys(t, b, a, 1)[0], []byte("v")))
}
