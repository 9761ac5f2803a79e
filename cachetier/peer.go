package cachetier

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/golang/groupcache/groupcachepb"

	"github.com/Focinfi/oncekv/kvstore"
)

const (
	peerHedgeMin   = 25 * time.Millisecond // less, and a busy machine looks like a silent one
	peerHedgeMax   = 100 * time.Millisecond
	peerHedgeStart = 50 * time.Millisecond // while nothing was measured
	peerPlainFor   = 30 * time.Second      // how long a node without streams is not asked for one
)

var (
	errPeerSilent = errors.New("owner is silent")
	// errPeerIdle: a stream on which nothing was under way has ended: the other side
	// needed the room, or the connection was cut. The next question makes a new one.
	errPeerIdle  = errors.New("an idle stream has ended")
	errPeerBusy  = errors.New("owner could not load")
	errPeerLeft  = errors.New("owner is leaving")
	errPeerPlain = errors.New("owner takes this question over plain HTTP only")

	// errPeerSlow: the owner has given no sign of life for a while. Its answer
	// may still come.
	errPeerSlow = errors.New("owner has not answered yet")
)

// peer is another cache node. It is groupcache's ProtoGetter for the keys that
// node owns.
type peer struct {
	url  string
	node *Node

	// down: it is not asked. Set when it gives no sign of life, cleared by one.
	down    atomic.Bool
	proven  atomic.Bool // it has answered once: it is in the ring
	probing atomic.Bool // a probe is under way
	missed  atomic.Bool // it was logged that it does not answer
	latency latencies   // of its answers

	mu         sync.Mutex
	current    *stream // nil: there is none, the next load begins one
	plainUntil time.Time
}

// Get implements groupcache.ProtoGetter: it fills out with the owner's record of the key, or
// with nothing when the key is not set. To groupcache both are answers; an error makes it call
// the getter. ctx is a flight's.
func (p *peer) Get(ctx context.Context, in *pb.GetRequest, out *pb.GetResponse) (err error) {
	defer recovered(p.node.log, "a load from peer "+p.url, &err)
	began := time.Now()
	rec, err := p.load(ctx, kvstore.Key(in.GetKey()))
	switch {
	case err == nil:
		p.served(began)
		out.Value = rec.raw
	case errors.Is(err, errAbsent):
		p.served(began)
		err = nil // an answer without a record
	case errors.Is(err, errPeerSlow):
		p.node.counters.peerHedges.Add(1)
	default:
		p.failed(ctx, err)
	}
	return err
}

// served counts an answer.
func (p *peer) served(began time.Time) {
	took := time.Since(began)
	p.node.counters.peerLoads.Add(1)
	p.node.peerLatency.observe(took)
	p.latency.observe(took)
}

// load asks the owner: over the stream to it, or by a request of its own when there is no
// stream or the record is too long for it. It waits for at most half the load's time, so that
// there is time for the database.
//
// errPeerSlow: the question stays on its way, as the flight's pending call.
func (p *peer) load(ctx context.Context, key kvstore.Key) (*record, error) {
	f := flightFrom(ctx)
	ctx, stop := context.WithTimeout(ctx, p.node.cfg.LoadTimeout/2)
	defer stop()
	if s := p.stream(f.era); s != nil {
		var rec *record
		c, err := s.ask(key)
		if err == nil {
			err = p.await(ctx, s, c)
		}
		if err == nil {
			rec, err = c.record()
		}
		if errors.Is(err, errPeerSlow) {
			f.pending = c
		}
		if !errors.Is(err, errPeerPlain) {
			return rec, err
		}
	}
	return p.loadAlone(ctx, f.era, key)
}

// stream returns the stream to this peer in an era, which it begins when there is none; nil
// when the peer is known to have no streams.
func (p *peer) stream(e *era) *stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil && p.current.era == e {
		return p.current // one of an era that is over ends by itself
	}
	if p.node.now().Before(p.plainUntil) {
		return nil
	}
	s := newStream(p, e)
	if !p.node.goStream(s.run) {
		s.dog.Stop()
		s.cancel(nil)
		return nil
	}
	p.current = s
	return s
}

// await waits for the answer to c. While it does not come, it pings. When the owner does not
// answer that either, it is silent: errPeerSlow.
func (p *peer) await(ctx context.Context, s *stream, c *call) error {
	delay := p.hedgeDelay()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	for {
		select {
		case <-c.Done():
			return nil
		case <-timer.C:
			if s.ping() >= delay {
				p.suspect(s)
				return errPeerSlow
			}
			timer.Reset(delay)
		case <-ctx.Done():
			return fmt.Errorf("%w in time: %w", errPeerBusy, context.Cause(ctx))
		}
	}
}

// hedgeDelay is how long the owner may give no sign of life before it is pinged, and how long
// again before the database is asked beside it: what all but one in twenty of its answers take.
func (p *peer) hedgeDelay() time.Duration {
	measured := min(max(cmp.Or(p.latency.usual(), peerHedgeStart), peerHedgeMin), peerHedgeMax)
	return min(cmp.Or(p.node.cfg.HedgeDelay, measured), p.node.cfg.PeerTimeout/2)
}

// suspect keeps loads away from a peer whose stream is silent, until it says something.
func (p *peer) suspect(s *stream) {
	p.down.Store(true)
	if s.pinged.Load() == 0 { // it has, at this moment
		p.answers()
	}
}

// lost keeps loads away from a peer until it answers a probe.
func (p *peer) lost(err error) {
	p.down.Store(true)
	if !p.missed.Swap(true) {
		p.node.log.Warn("peer does not answer; its keys are loaded from the database until it does", "peer", p.url, "error", err)
	}
}

// leaves keeps loads away from a peer that has said that it stops.
func (p *peer) leaves() {
	if !p.down.Swap(true) {
		p.node.log.Info("peer is leaving", "peer", p.url)
	}
}

// answers lets loads ask the peer again.
func (p *peer) answers() {
	p.down.Store(false)
	if !p.proven.Swap(true) {
		p.node.adopt()
	}
	if p.missed.Swap(false) {
		p.node.log.Info("peer answers again", "peer", p.url)
	}
}

// moved keeps loads away from a peer until it answers a probe: this node has moved to another
// history, and the peer may be in the one before.
func (p *peer) moved() { p.down.Store(true) }

// elsewhere keeps loads away from a peer that is in another history, and takes it out of the
// ring, until it answers a probe from this one.
func (p *peer) elsewhere() {
	p.down.Store(true)
	if p.proven.Swap(false) {
		p.node.adopt()
		p.node.log.Info("peer has another history; it is not asked until it has this one", "peer", p.url)
	}
}

// ended hears that a stream is over.
func (p *peer) ended(s *stream, err error) {
	p.mu.Lock()
	if p.current == s {
		p.current = nil
	}
	if errors.Is(err, errPeerPlain) {
		p.plainUntil = p.node.now().Add(peerPlainFor)
	}
	p.mu.Unlock()
	switch {
	case errors.Is(err, errPeerPlain), errors.Is(err, errPeerIdle), s.era.ctx.Err() != nil:
	case errors.Is(err, errElsewhere):
		p.elsewhere()
	case errors.Is(err, errPeerLeft):
		p.leaves()
	default:
		p.lost(err)
	}
}

// retire ends the stream when nothing is asked over it any more.
func (p *peer) retire() {
	p.mu.Lock()
	s := p.current
	p.mu.Unlock()
	if s != nil {
		s.retire()
	}
}

// failed decides whether loads avoid the owner. They do not avoid one that answers, whatever it
// answers: this key goes to the database, the next one to the owner again.
func (p *peer) failed(ctx context.Context, err error) {
	p.node.counters.peerErrors.Add(1)
	switch {
	case errors.Is(err, errPeerBusy), errors.Is(err, errPeerLeft):
	case errors.Is(err, errElsewhere):
		p.elsewhere()
	case errors.Is(err, errDigest):
		p.node.log.Error("peer sent wrong bytes", "peer", p.url, "error", err)
	case ctx.Err() == nil:
		p.lost(err)
	}
}

// loadAlone asks the owner in a request of its own. It waits for at most PeerTimeout without a
// byte.
func (p *peer) loadAlone(ctx context.Context, e *era, key kvstore.Key) (*record, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := time.AfterFunc(p.node.cfg.PeerTimeout, func() { cancel(errPeerSilent) })
	defer dog.Stop()
	target := p.url + peerRecord + "?key=" + base64.RawURLEncoding.EncodeToString([]byte(key))
	rec, err := p.exchange(ctx, e, key, target, func() { dog.Reset(p.node.cfg.PeerTimeout) })
	if err != nil && context.Cause(ctx) != nil {
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return rec, err
}

func (p *peer) exchange(ctx context.Context, e *era, key kvstore.Key, target string, moved func()) (*record, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	e.named(req.Header)
	resp, err := p.node.peerHTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := answersIn(e, resp); err != nil {
		return nil, err
	}
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNotFound && mediaType == typeAbsent:
		return nil, errAbsent
	case resp.StatusCode == http.StatusServiceUnavailable:
		return nil, errPeerBusy
	case resp.StatusCode != http.StatusOK || mediaType != typeRecord:
		return nil, fmt.Errorf("answered %d with %q: is this an oncekv cache node?", resp.StatusCode, mediaType)
	}
	return p.receive(ctx, key, resp, moved)
}

// answersIn returns errElsewhere for an answer of a peer that is not of the era's history. It
// does not look at other refusals.
func answersIn(e *era, resp *http.Response) error {
	switch {
	case resp.StatusCode == http.StatusConflict:
		return errElsewhere
	case resp.StatusCode < http.StatusMultipleChoices, resp.Header.Get("Content-Type") == typeAbsent:
		_, err := e.check(resp.Header)
		return err
	}
	return nil
}

// receive reads and verifies a record.
func (p *peer) receive(ctx context.Context, key kvstore.Key, resp *http.Response, moved func()) (*record, error) {
	size := resp.ContentLength
	if size < 0 || size > recordBytesMax {
		return nil, fmt.Errorf("%w: record of %d bytes", errDigest, size)
	}
	if size > smallBytes {
		if err := p.node.fetcher.bodies.Acquire(ctx, 1); err != nil {
			return nil, err
		}
		defer p.node.fetcher.bodies.Release(1)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(movingReader{resp.Body, moved}, raw); err != nil {
		return nil, fmt.Errorf("record of %d bytes broke off: %w", size, err)
	}
	return receivedRecord(key, raw)
}

// movingReader reports every read that brought something.
type movingReader struct {
	io.Reader
	moved func()
}

func (r movingReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if n > 0 {
		r.moved()
	}
	return n, err
}

// probe asks a peer that is down whether it is back, in the same history.
func (p *peer) probe(ctx context.Context) {
	e := p.node.era.Load()
	ctx, cancel := context.WithTimeout(ctx, p.node.cfg.PeerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+peerPing, nil)
	if err != nil {
		return
	}
	resp, err := p.node.peerHTTP.Do(req)
	if err != nil {
		return
	}
	resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusNoContent || p.node.era.Load() != e:
	case answersIn(e, resp) != nil:
		p.elsewhere()
	default:
		p.mu.Lock()
		p.plainUntil = time.Time{} // it may be another program by now
		p.mu.Unlock()
		p.answers()
	}
}
