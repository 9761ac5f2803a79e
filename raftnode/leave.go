package raftnode

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A removed member stops when most of the remaining voters have its removal on disk. Until
// then one of them may need its vote: of two voters, the one that stays cannot lead alone
// while it does not know, or has forgotten in a crash, that it is the only one.

const (
	farewellPause   = 100 * time.Millisecond
	farewellTimeout = 2 * time.Second
	farewellEvery   = 10 * time.Second // what it waits for is logged so often
)

// leave makes the node stop as soon as the others can do without it. The loop calls it; wg
// is nil if the caller closes released itself.
func (n *Node) leave(ctx context.Context, wg *sync.WaitGroup) {
	if n.released != nil {
		return
	}
	n.released = make(chan struct{})
	if wg == nil {
		return
	}
	released := n.released
	wg.Go(func() {
		for told := time.Now(); !n.mayLeave(ctx); {
			if time.Since(told) > farewellEvery {
				told = time.Now()
				n.logger.Warn("this node was removed; it keeps running until most of the other voters have stored that")
			}
			if sleep(ctx, farewellPause) != nil {
				return
			}
		}
		close(released)
	})
}

// mayLeave reports whether most of the other voters have stored that this node was removed.
func (n *Node) mayLeave(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, farewellTimeout)
	defer cancel()
	voters := slices.DeleteFunc(n.others(n.status.Load().Members), func(m Member) bool { return m.Learner })
	needed := len(voters)/2 + 1
	if len(voters) == 0 { // removed before it heard of anybody
		voters, needed = n.identity.Load().Peers, 1
	}
	for _, a := range n.introductions(ctx, voters, "gone="+n.self.ID.String()) {
		if a.ClusterID == n.self.ClusterID && a.Gone {
			needed--
		}
	}
	return needed <= 0
}

// knowsGone reports whether this node's disk says that a member was removed.
func (n *Node) knowsGone(r *http.Request) bool {
	id, err := ParseID(r.URL.Query().Get("gone"))
	if err != nil {
		return false
	}
	d, err := durableOf(n.sm)
	return err == nil && d.members.removed[id]
}
