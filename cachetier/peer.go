package cachetier

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	pb "github.com/golang/groupcache/groupcachepb"

	"github.com/Focinfi/oncekv/kvstore"
)

// Between cache nodes:
//
//	GET /peer/ping                 204: this process runs
//	GET /peer/record?key=BASE64URL 200 and a record, or 404 and typeAbsent,
//	                               or 503: could not load
const (
	peerPing   = "/peer/ping"
	peerRecord = "/peer/record"
	typeRecord = "application/vnd.oncekv.record"
	typeAbsent = "application/vnd.oncekv.absent"
)

var (
	errPeerSilent = errors.New("owner is silent")
	errPeerBusy   = errors.New("owner could not load")
)

// peer is another cache node. It is groupcache's ProtoGetter for the keys that
// node owns.
type peer struct {
	url  string
	node *Node
	down atomic.Bool // it did not answer; a probe that it does clears this
}

// Get implements groupcache.ProtoGetter: it fills out with the owner's record
// of the key. Any error makes groupcache load through the getter. ctx is a
// flight's.
func (p *peer) Get(ctx context.Context, in *pb.GetRequest, out *pb.GetResponse) (err error) {
	defer recovered(p.node.log, "a load from peer "+p.url, &err)
	rec, err := p.load(ctx, kvstore.Key(in.GetKey()))
	switch {
	case err == nil:
		p.node.counters.peerLoads.Add(1)
		flightFrom(ctx).source = sourcePeer
		out.Value = rec.raw
	case errors.Is(err, errAbsent):
		p.node.counters.peerLoads.Add(1)
		flightFrom(ctx).absent = true
	default:
		p.failed(ctx, err)
	}
	return err
}

// failed decides whether the owner is to be avoided. One that answers is not,
// whatever it answers: this key goes to the database, the next one to the
// owner again.
func (p *peer) failed(ctx context.Context, err error) {
	p.node.counters.peerErrors.Add(1)
	switch {
	case errors.Is(err, errPeerBusy):
	case errors.Is(err, errDigest):
		p.node.log.Error("peer sent wrong bytes", "peer", p.url, "error", err)
	case ctx.Err() == nil:
		if !p.down.Swap(true) {
			p.node.log.Warn("peer does not answer; its keys are loaded from the database until it does", "peer", p.url, "error", err)
		}
	}
}

// load asks the owner. It waits for PeerTimeout at most without a byte, and
// for half the load's time in all, so that there is time for the database.
func (p *peer) load(ctx context.Context, key kvstore.Key) (*record, error) {
	ctx, stop := context.WithTimeout(ctx, p.node.cfg.LoadTimeout/2)
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dog := time.AfterFunc(p.node.cfg.PeerTimeout, func() { cancel(errPeerSilent) })
	defer dog.Stop()
	target := p.url + peerRecord + "?key=" + base64.RawURLEncoding.EncodeToString([]byte(key))
	rec, err := p.exchange(ctx, key, target, func() { dog.Reset(p.node.cfg.PeerTimeout) })
	if err != nil && context.Cause(ctx) != nil {
		return nil, fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return rec, err
}

func (p *peer) exchange(ctx context.Context, key kvstore.Key, target string, moved func()) (*record, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	resp, err := p.node.peerHTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
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

// receive reads and verifies a record.
func (p *peer) receive(ctx context.Context, key kvstore.Key, resp *http.Response, moved func()) (*record, error) {
	size := resp.ContentLength
	if size < 0 || size > recordBytesMax {
		return nil, fmt.Errorf("%w: record of %d bytes", errDigest, size)
	}
	if size > smallBytes {
		select {
		case p.node.fetcher.bodies <- struct{}{}:
			defer func() { <-p.node.fetcher.bodies }()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(movingReader{resp.Body, moved}, raw); err != nil {
		return nil, fmt.Errorf("record of %d bytes broke off: %w", size, err)
	}
	rec, err := decodeRecord(key, raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDigest, err)
	}
	return rec, rec.verify()
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

// probe asks a peer that is down whether it is back.
func (p *peer) probe(ctx context.Context) {
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
	if resp.StatusCode == http.StatusNoContent && p.down.Swap(false) {
		p.node.log.Info("peer answers again", "peer", p.url)
	}
}

// PeerHandler serves the paths below /peer/ to other cache nodes. A record is
// answered from this node's memory or from the database and never asked of a
// third node, whatever this node's ring says: so no two lists of peers, however
// they differ, can make nodes wait for each other.
func (n *Node) PeerHandler() http.Handler { return http.HandlerFunc(n.servePeer) }

func (n *Node) servePeer(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "peers only read", http.StatusMethodNotAllowed)
	case r.URL.Path == peerPing:
		w.WriteHeader(http.StatusNoContent)
	case r.URL.Path == peerRecord:
		n.serveRecord(w, r)
	default:
		http.Error(w, "no such peer resource", http.StatusNotFound)
	}
}

func (n *Node) serveRecord(w http.ResponseWriter, r *http.Request) {
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
	rec, err := n.forPeer(r.Context(), key)
	switch {
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
