package cachetier

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
	"github.com/Focinfi/oncekv/kvstore"
)

const (
	answersMax = 1 << 20 // bytes of answers in a stream's queue

	recordInFrameMax = smallBytes // bytes; longer records would make all others wait
	reasonBytesMax   = 1024

	switchTime = 5 * time.Second // for the answer that makes a stream, and for the first question
)

// PeerHandler serves the paths below /peer/ to other cache nodes. A record is
// answered from this node's memory or from the database and never asked of a
// third node, whatever this node's ring says: so no two lists of peers, however
// they differ, can make nodes wait for each other.
func (n *Node) PeerHandler() http.Handler { return http.HandlerFunc(n.servePeer) }

func (n *Node) servePeer(w http.ResponseWriter, r *http.Request) {
	e := n.era.Load()
	w.Header().Set("Cache-Control", "no-store")
	e.named(w.Header())
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "peers only read", http.StatusMethodNotAllowed)
	case r.URL.Path != peerRecord && n.leaving.Load():
		http.Error(w, "this cache node is leaving", http.StatusServiceUnavailable)
	case r.URL.Path == peerPing:
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == peerStream:
		n.serveStream(w, r, e)
	case r.URL.Path == peerRecord:
		n.serveRecord(w, r, e)
	default:
		http.Error(w, "no such peer resource", http.StatusNotFound)
	}
}

// refusesStranger answers a peer that stands in another history.
func refusesStranger(w http.ResponseWriter, r *http.Request, e *era) bool {
	_, err := e.check(r.Header)
	if err != nil {
		http.Error(w, "the asking node does not have the history of this node: "+err.Error(), http.StatusConflict)
	}
	return err != nil
}

func (n *Node) serveRecord(w http.ResponseWriter, r *http.Request, e *era) {
	if refusesStranger(w, r, e) {
		return
	}
	encoded, _ := strings.CutPrefix(r.URL.RawQuery, "key=")
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	key := kvstore.Key(raw)
	if err == nil {
		err = key.Validate()
	}
	if err != nil {
		http.Error(w, "key is not one in base64url: "+err.Error(), http.StatusBadRequest)
		return
	}
	n.counters.peerServed.Add(1)
	rec, err := n.forPeer(r.Context(), e, key)
	switch {
	case errors.Is(err, errElsewhere):
		http.Error(w, "this node has moved to another history", http.StatusConflict)
	case errors.Is(err, errAbsent):
		w.Header().Set("Content-Type", typeAbsent)
		w.WriteHeader(http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	default:
		w.Header().Set("Content-Type", typeRecord)
		w.Header().Set("Content-Length", fmt.Sprint(len(rec.raw)))
		w.Write(rec.raw)
	}
}

// serveStream makes a stream of the connection. Its goroutines are the node's.
func (n *Node) serveStream(w http.ResponseWriter, r *http.Request, e *era) {
	if !asksForStream(r) {
		w.Header().Set("Upgrade", streamProtocol)
		http.Error(w, "this is for cache nodes that speak "+streamProtocol, http.StatusUpgradeRequired)
		return
	}
	if r.ContentLength != 0 {
		http.Error(w, "a stream begins with a request without a body: what follows it would be taken for frames", http.StatusBadRequest)
		return
	}
	if refusesStranger(w, r, e) {
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this connection cannot become a stream: "+err.Error(), http.StatusNotImplemented)
		return
	}
	s := &served{node: n, era: e, conn: conn, from: buffered.Reader, out: mux.NewQueue(answersMax), loads: make(chan struct{}, streamCallsMax), ended: make(chan struct{})}
	if !n.goStream(s.run) {
		conn.Close()
	}
}

// asksForStream reports whether a request changes to the streams' protocol. One
// that merely has an Upgrade, without a Connection that names it, came through
// somebody who does not change to another one and would go on with HTTP.
func asksForStream(r *http.Request) bool {
	if r.Header.Get("Upgrade") != streamProtocol || !r.ProtoAtLeast(1, 1) {
		return false
	}
	for _, line := range r.Header["Connection"] {
		for option := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(option), "upgrade") {
				return true
			}
		}
	}
	return false
}

// served is a stream that another cache node began. Its goroutine, in run, reads
// questions and answers what is in memory itself, so that a burst of questions
// becomes one burst of answers; what has to be loaded is answered by a goroutine
// of its own. mux.Queue.Send sends. All answers are of one era, with which it ends.
type served struct {
	node  *Node
	era   *era
	conn  net.Conn
	from  io.Reader
	out   *mux.Queue
	loads chan struct{} // one for each load
	ended chan struct{} // closed at the end of run
}

func (s *served) run() {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(s.era.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer s.out.Close()
	defer cancel()
	running.Go(func() { // closes the connection, which ends the reading
		<-ctx.Done()
		s.conn.Close()
	})
	_ = s.conn.SetDeadline(time.Now().Add(switchTime))
	answer := http.Header{"Connection": {"Upgrade"}, "Upgrade": {streamProtocol}}
	s.era.named(answer)
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	_ = answer.Write(&head) // which takes everything
	head.WriteString("\r\n")
	if _, err := s.conn.Write(head.Bytes()); err != nil {
		return
	}
	_ = s.conn.SetWriteDeadline(time.Time{})
	running.Go(func() {
		_ = s.out.Send(s.conn, s.node.cfg.StreamIdle, cancel)
		cancel()
	})
	s.node.addServed(s)
	defer s.node.dropServed(s)
	if err := s.read(ctx, &running); err != nil && err != io.EOF && ctx.Err() == nil {
		s.node.log.Debug("stream of a peer ended", "peer", s.conn.RemoteAddr(), "error", err)
	}
}

func (s *served) read(ctx context.Context, running *sync.WaitGroup) (err error) {
	defer recovered(s.node.log, "a stream of a peer", &err)
	frames := frame.NewPeerReader(s.from)
	first := true
	for {
		if !frames.Buffered() {
			s.out.Flush()
		}
		f, err := frames.Next()
		if err != nil {
			return err
		}
		if first { // whoever makes a stream has a question; the next may take its time
			first = false
			_ = s.conn.SetReadDeadline(time.Time{})
		}
		switch f.Kind {
		case frame.PeerPing:
			s.add(frame.PeerPong, f.ID, nil)
		case frame.PeerGet:
			s.get(ctx, f.ID, kvstore.Key(f.Body()), running)
		default:
			return fmt.Errorf("peer sent a frame of kind %d, which is no question", f.Kind)
		}
	}
}

// get answers from memory, or begins a load that will.
func (s *served) get(ctx context.Context, id uint32, key kvstore.Key, running *sync.WaitGroup) {
	s.node.counters.peerServed.Add(1)
	if err := key.Validate(); err != nil {
		s.answer(id, nil, err)
		return
	}
	if rec := s.node.held(key); rec != nil && s.node.era.Load() == s.era {
		s.answer(id, rec, nil)
		return
	}
	select {
	case s.loads <- struct{}{}:
	default:
		s.answer(id, nil, kvstore.ErrOverloaded)
		return
	}
	running.Go(func() {
		defer func() { <-s.loads }()
		rec, err := s.load(ctx, key)
		s.answer(id, rec, err)
		s.out.Flush()
	})
}

func (s *served) load(ctx context.Context, key kvstore.Key) (rec *record, err error) {
	defer recovered(s.node.log, "a load for a peer", &err)
	return s.node.forPeer(ctx, s.era, key)
}

func (s *served) answer(id uint32, rec *record, err error) {
	switch {
	case errors.Is(err, errAbsent):
		s.add(frame.PeerAbsent, id, nil)
	case err != nil:
		reason := err.Error()
		s.add(frame.PeerBusy, id, []byte(reason[:min(len(reason), reasonBytesMax)]))
	case len(rec.raw) > recordInFrameMax:
		s.add(frame.PeerLarge, id, nil)
	default:
		s.add(frame.PeerRecord, id, rec.raw)
	}
}

// add queues a frame, waiting for room. One for a stream that is over is dropped.
func (s *served) add(kind frame.Kind, id uint32, body []byte) {
	_ = s.out.Add(context.Background(), nil, func(out []byte) []byte { return frame.AppendPeer(out, kind, id, body) })
}

// leave tells the peer to ask no more.
func (s *served) leave() {
	s.add(frame.PeerLeaving, 0, nil)
	s.out.Flush()
}

func (n *Node) addServed(s *served) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leaving.Load() {
		s.leave()
	}
	n.serving[s] = struct{}{}
}

func (n *Node) dropServed(s *served) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.serving, s)
}

// depart tells the peers that ask here that they should not, and waits until
// they have got their last answers, departureTime at most.
func (n *Node) depart() {
	n.mu.Lock()
	n.leaving.Store(true)
	left := slices.Collect(maps.Keys(n.serving))
	n.mu.Unlock()
	patience := time.NewTimer(n.cfg.departureTime)
	defer patience.Stop()
	for _, s := range left {
		s.leave()
	}
	for _, s := range left {
		select {
		case <-s.ended:
		case <-patience.C:
			return
		}
	}
}
