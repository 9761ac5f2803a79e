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
)

const answerBytesMax = 8 << 20

// Run keeps this node in the ring until ctx ends: a heartbeat twice a second to
// every known database node, and probes of peers that are down. Then it says
// goodbye, within a second, and returns nil. Reads work before, during and
// after Run.
func (n *Node) Run(ctx context.Context) error {
	// Heartbeats under way when ctx ends are let finish for a while: one that
	// is cut off may be handled after the goodbye, and undo it.
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

// round begins one heartbeat for each database node and probes of peers that are
// down, counted in beats. A node that has not answered the last
// heartbeat gets no other meanwhile, and delays nobody.
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

// probe begins a probe for each peer that is down, for as many as may be at a time:
// first for those that have answered once.
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
		if !amongMembers(answer.DBs, d.url) {
			return // whoever is there is not what it was said to be
		}
		d.proven.Store(true)
	}
	n.told(d, historyIn(answer.History))
	d.succeeded(n.now(), n.now().Sub(began))
	caches, dbs := n.members.heard(answer, n.now())
	n.setPeers(caches)
	n.databases.set(dbs)
}

// heartbeat is what this node says of itself.
func (n *Node) heartbeat() api.Heartbeat {
	return api.Heartbeat{Name: n.cfg.Name, URL: n.cfg.URL, History: n.era.Load().text(), CacheFigures: n.figures()}
}

// amongMembers reports whether a database node is among those that an answer names. Each
// of them names itself.
func amongMembers(dbs []api.DBNode, url string) bool {
	return slices.ContainsFunc(dbs, func(d api.DBNode) bool {
		named, err := nodeurl.Parse(d.URL)
		return err == nil && named == url
	})
}

// complain logs why a database node gives no answer that it should, when that has
// changed, and who is there instead.
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

// goodbye takes this node out of the ring at once instead of after the TTL.
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
