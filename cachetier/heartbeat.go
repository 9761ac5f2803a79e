package cachetier

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/internal/nodeurl"
	"github.com/Focinfi/oncekv/kvstore"
)

const answerBytesMax = 8 << 20

// Run keeps this node in the ring until ctx ends: it sends a heartbeat twice a second to every
// known database node, and probes peers that are down. Then it says goodbye, within a second,
// and returns nil. Reads work before, during and after Run.
func (n *Node) Run(ctx context.Context) error {
	// Heartbeats under way when ctx ends get some time to finish: one that is cut off may be
	// handled after the goodbye, and undo it.
	beatCtx, cutOff := context.WithCancel(context.WithoutCancel(ctx))
	defer cutOff()
	var beats sync.WaitGroup
	tick := time.NewTicker(n.cfg.HeartbeatInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		n.round(beatCtx, &beats)
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	patience := time.AfterFunc(n.cfg.goodbyeTime, cutOff)
	beats.Wait()
	patience.Stop()
	n.goodbye()
	n.depart()
	return nil
}

// round begins one heartbeat for each database node and probes of peers that are down,
// counted in beats. A node that has not answered the last heartbeat gets no other one, and
// delays nobody.
func (n *Node) round(ctx context.Context, beats *sync.WaitGroup) {
	for _, d := range n.databases.all() {
		if d.beating.Swap(true) {
			continue
		}
		beats.Go(func() {
			defer d.beating.Store(false)
			n.beat(ctx, d)
			n.probe(ctx, beats)
		})
	}
	n.probe(ctx, beats)
}

// probe begins a probe for each peer that is down, as far as probesMax allows: first for those
// that have answered once.
func (n *Node) probe(ctx context.Context, beats *sync.WaitGroup) {
	for _, proven := range []bool{true, false} {
		for _, p := range n.view.Load().peers {
			if !p.down.Load() || p.proven.Load() != proven || p.probing.Swap(true) {
				continue
			}
			select {
			case n.probes <- struct{}{}:
			default:
				p.probing.Store(false)
				return
			}
			beats.Go(func() {
				p.probe(ctx)
				p.probing.Store(false)
				<-n.probes
			})
		}
	}
}

func (n *Node) beat(ctx context.Context, d *database) {
	began := n.now()
	asking, cancel := context.WithTimeout(ctx, n.cfg.heartbeatTime)
	defer cancel()
	answer, err := n.post(asking, d, n.heartbeat())
	if err != nil {
		d.failed(n.now())
		n.complain(ctx, d, err)
		return
	}
	d.complains("")
	n.update.Lock()
	defer n.update.Unlock()
	if !d.proven.Load() {
		itself := func(member api.DBNode) bool { // each member names itself
			named, err := nodeurl.Parse(member.URL)
			return err == nil && named == d.url
		}
		if !slices.ContainsFunc(answer.DBs, itself) {
			return // whoever is there is not what it was said to be
		}
		d.proven.Store(true)
	}
	n.told(d, historyIn(answer.History))
	d.succeeded(n.now(), n.now().Sub(began))
	caches, dbs := n.members.heard(answer, n.now())
	n.setPeers(caches)
	n.databases.set(dbs)
	n.databases.leads(answer.DBs)
}

// heartbeat is what this node says of itself.
func (n *Node) heartbeat() api.Heartbeat {
	return api.Heartbeat{Name: n.cfg.Name, URL: n.cfg.URL, History: n.era.Load().text(), CacheFigures: n.figures()}
}

// complain logs why a database node does not answer as it should, when that has changed, and
// who is there instead.
func (n *Node) complain(ctx context.Context, d *database, err error) {
	why := nodehttp.Reason(err)
	if !d.complains(why) {
		return
	}
	var status *nodehttp.StatusError
	if !errors.As(err, &status) && !errors.Is(err, nodehttp.ErrAnswer) {
		n.log.Info("a database node does not answer", "database", d.url, "err", why)
		return
	}
	if instead := nodehttp.Identify(ctx, n.fetcher.http, d.url).NoDatabase(d.url); instead != "" {
		why = instead
	}
	n.log.Warn("a database node does not accept heartbeats", "database", d.url, "err", why)
}

func (n *Node) post(ctx context.Context, d *database, h api.Heartbeat) (api.HeartbeatAnswer, error) {
	var answer api.HeartbeatAnswer
	body, err := json.Marshal(h)
	if err != nil {
		return answer, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.url+"/caches", bytes.NewReader(body))
	if err != nil {
		return answer, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.fetcher.http.Do(req)
	if err != nil {
		return answer, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer, &nodehttp.StatusError{Status: resp.StatusCode}
	}
	err = nodehttp.DecodeJSON(resp.Body, answerBytesMax, &answer)
	return answer, err
}

// goodbye takes this node out of the ring at once, and not only after the TTL.
func (n *Node) goodbye() {
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.goodbyeTime)
	defer cancel()
	var posts sync.WaitGroup
	for _, d := range n.databases.all() {
		posts.Go(func() {
			h := n.heartbeat()
			h.Leaving = true
			if _, err := n.post(ctx, d, h); err != nil {
				n.log.Debug("could not say goodbye to a database node", "database", d.url, "error", err)
			}
		})
	}
	posts.Wait()
}

// setPeers makes the ring of this node and the given ones. A peer that stays keeps its
// state. Called with update held, or before the node is shared.
func (n *Node) setPeers(urls []string) {
	old, next := n.view.Load(), &view{peers: make(map[string]*peer, len(urls))}
	for _, url := range urls {
		p := old.peers[url]
		if p == nil {
			p = &peer{url: url, node: n}
			p.down.Store(true) // until a probe is answered: anybody may have made it up
		}
		next.peers[url] = p
	}
	next.ring = next.newRing(n.cfg.URL)
	n.view.Store(next)
	for url, p := range old.peers {
		if next.peers[url] == nil {
			p.retire()
		}
	}
}

// told takes in which history a database node has, and moves this node if it has to. Called
// with update held.
func (n *Node) told(d *database, h kvstore.History) {
	d.tells(h.ID)
	from := n.standing.own.ID
	why := n.standing.hear(h, n.now())
	if why == "" {
		stranger := !h.ID.IsZero() && h.ID != from
		if stranger && !d.stranger {
			n.log.Warn("a database node has another history and is not asked", "database", d.url, "history", h.ID, "own", from)
		}
		d.stranger = stranger
		return
	}
	next := newEra(n.base, h.ID)
	var dropped int64
	next.generation, dropped = n.memory.Begin() // and from here on nothing of the old era is taken in
	n.era.Swap(next).end()
	for _, p := range n.view.Load().peers {
		p.moved()
	}
	if from.IsZero() {
		n.log.Debug("has its first history", "history", h.ID, "database", d.url)
		return
	}
	n.counters.moves.Add(1)
	n.counters.dropped.Add(uint64(dropped))
	n.log.Warn("moved to another history and dropped all cached records", "history", h.ID, "from", from, "because", why, "records", dropped, "database", d.url)
}

// learned takes in a history from the answer to a read that came before any heartbeat.
func (n *Node) learned(d *database, history kvstore.HistoryID) {
	n.update.Lock()
	defer n.update.Unlock()
	if n.standing.own.ID.IsZero() {
		n.told(d, kvstore.History{ID: history})
	}
}
