package server

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/nodehttp"
	"github.com/Focinfi/oncekv/raftnode"
)

const (
	watchInterval = time.Second
	// staleAfter is when a member without an answer counts as unhealthy: after two missed
	// polls, and within the promised three seconds.
	staleAfter    = 2500 * time.Millisecond
	statsBytesMax = 1 << 20
)

// watch polls the other database nodes every second: who is alive, how far each one is, and
// whose disk is nearly full. Owned by run; the results are read under the lock.
type watch struct {
	node   *raftnode.Node
	client *http.Client
	onSeen func(context.Context, raftnode.Member, api.Stats) // run calls it for every answer

	mu   sync.Mutex
	seen map[raftnode.ID]sighting
}

type sighting struct {
	stats api.Stats
	at    time.Time
}

func newWatch(node *raftnode.Node, onSeen func(context.Context, raftnode.Member, api.Stats)) *watch {
	return &watch{node: node, client: nodehttp.NewClient(nodehttp.Options{DialTimeout: watchInterval}), onSeen: onSeen, seen: map[raftnode.ID]sighting{}}
}

// run polls until ctx ends.
func (w *watch) run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	defer w.client.CloseIdleConnections()
	for {
		w.poll(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// poll asks all members at once and waits for the slowest, at most a second.
func (w *watch) poll(ctx context.Context) {
	st := w.node.Status()
	var wg sync.WaitGroup
	for _, m := range st.Members {
		if m.ID == st.ID {
			continue
		}
		wg.Go(func() {
			stats, err := w.fetch(ctx, m.ClientURL)
			if err != nil || stats.ID != m.ID.String() {
				return // a stranger at that address counts as no answer
			}
			w.mu.Lock()
			w.seen[m.ID] = sighting{stats, time.Now()}
			w.mu.Unlock()
			w.onSeen(ctx, m, stats)
		})
	}
	wg.Wait()
	w.forget(st.Members)
}

func (w *watch) fetch(ctx context.Context, url string) (api.Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, watchInterval)
	defer cancel()
	var stats api.Stats
	err := nodehttp.GetJSON(ctx, w.client, url+"/stats", statsBytesMax, &stats)
	return stats, err
}

// forget drops nodes that are no longer members.
func (w *watch) forget(members []raftnode.Member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.seen {
		known := false
		for _, m := range members {
			known = known || m.ID == id
		}
		if !known {
			delete(w.seen, id)
		}
	}
}

// last returns a member's latest statistics and whether they are fresh.
func (w *watch) last(id raftnode.ID) (api.Stats, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s, ok := w.seen[id]
	return s.stats, ok && time.Since(s.at) < staleAfter
}
