package raftnode

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A cluster ends when one of its members forces a new one without the others. They do not
// know, and could be a majority: then two clusters would acknowledge puts, with different
// values of the same key. The members of the new cluster refuse the messages and streams of
// the old one and say why. A node that hears so stops at once, whatever majority it belongs
// to. A node that cannot reach the new cluster cannot know.
//
// Nothing is proved: what answers at a member's peer URL is believed if the cluster that it
// belongs to descends from this node's.

// lookTime bounds how long a start waits for the others to say whether the cluster has
// ended. Slower ones say so when this node's streams reach them.
const lookTime = 500 * time.Millisecond

// endedCluster reports whether a header names a cluster that ended in this node's.
func (n *Node) endedCluster(header string) (*Forcing, bool) {
	id, err := ParseID(header)
	if err != nil || id == n.identity.Load().ClusterID {
		return nil, false
	}
	return endedIn(*n.forced.Load(), id)
}

// ending asks at the peer URLs of members whether this node's cluster has ended; nil if
// nobody says so.
func (n *Node) ending(ctx context.Context, members []Member, limit time.Duration) *Forcing {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	mine := n.identity.Load().ClusterID
	for _, a := range n.introductions(ctx, n.others(members), "") {
		if f, ended := endedIn(a.Forced, mine); ended && descends(a.Forced, mine, a.ClusterID) {
			return f
		}
	}
	return nil
}

// lookForEnd asks once before the node takes part.
func (n *Node) lookForEnd(ctx context.Context) error {
	if f := n.ending(ctx, n.peersAtStart(), lookTime); f != nil {
		return n.end(f)
	}
	return nil
}

// askForEnd finds out why another member refuses this one. The loop gets the answer. A node
// that leaves already asks again: nobody may have answered the first time.
func (n *Node) askForEnd(ctx context.Context, wg *sync.WaitGroup, why error) {
	if n.asking {
		return
	}
	n.asking = true
	if n.released == nil {
		n.logger.Warn("another member has removed this one", "err", why)
	}
	members := n.peersAtStart()
	wg.Go(func() { n.endings <- n.ending(ctx, members, introductionTime) }) // capacity 1, one at a time
}

// answered takes the answer and returns why the node stops. If nobody says that the cluster
// has ended, this node was removed, and leaves.
func (n *Node) answered(ctx context.Context, wg *sync.WaitGroup, f *Forcing) error {
	n.asking = false
	if f != nil {
		return n.end(f)
	}
	n.leave(ctx, wg)
	return nil
}

// end makes durable that the cluster has ended, and returns why the node stops.
func (n *Node) end(f *Forcing) error {
	n.self.Ended = f
	if err := n.keepSelf(); err != nil {
		return err
	}
	return n.endedError(f)
}

func (n *Node) endedError(f *Forcing) error {
	return fmt.Errorf("%w: %.64q forced a new cluster (%v) on %s, without this node. What was set in the old one since is not in the new one. "+
		"To use this node again, keep a copy of %s if you may need its data, empty it, and start the node with --join and the client URL of a node of the new cluster", ErrEnded, f.By, f.Cluster, f.when(), n.cfg.Dir)
}

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
