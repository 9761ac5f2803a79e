package raftnode

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// heard counts what a node's observers are told.
type heard struct {
	mu       sync.Mutex
	fsyncs   int
	proposed int
	failed   []error
	negative bool
}

func (h *heard) listen(c *Config) {
	c.OnFsync = func(took time.Duration) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.fsyncs++
		h.negative = h.negative || took < 0
	}
	c.OnPropose = func(took time.Duration, err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.negative = h.negative || took < 0
		if err != nil {
			h.failed = append(h.failed, err)
			return
		}
		h.proposed++
	}
}

func TestNode_Observers(t *testing.T) {
	var h heard
	nodes := newTestCluster(t, 1, h.listen)
	n := nodes[0]
	for _, cmd := range []string{"a", "b", "c"} {
		mustPropose(t, n, cmd)
	}
	if _, err := n.node.proposeOne(t.Context(), make([]byte, commandBytesMax+1)); !errors.Is(err, ErrCommandTooLarge) {
		t.Errorf("a command over the limit: %v", err)
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.propose("late"); !errors.Is(err, ErrStopped) {
		t.Errorf("a proposal to a stopped node: %v", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// Every acknowledged command was fsynced, here one by one.
	if h.proposed < 3 || h.fsyncs < 3 || h.negative {
		t.Errorf("heard of %d proposals and %d fsyncs", h.proposed, h.fsyncs)
	}
	if last := len(h.failed) - 2; last < 0 || !errors.Is(h.failed[last], ErrCommandTooLarge) || !errors.Is(h.failed[last+1], ErrStopped) {
		t.Errorf("heard of the failures %v", h.failed)
	}
}

func TestNode_Figures(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	first := leaderOf(t, nodes)
	before := make(map[*testNode]uint64)
	for _, n := range nodes {
		before[n] = n.node.Figures().LeaderChanges
		if before[n] == 0 {
			t.Errorf("%s knows a leader and counted none", n.cfg.Name)
		}
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	leaderOf(t, nodes)
	for _, n := range nodes {
		if n == first {
			continue
		}
		if got := n.node.Figures(); got.LeaderChanges <= before[n] || got.PendingProposals != 0 || got.ApplyQueueBytes != 0 {
			t.Errorf("%s: %+v after a new leader; %d leaders were known before", n.cfg.Name, got, before[n])
		}
	}
}

// TestNode_Figures_Pending: what waits for a leader is pending.
func TestNode_Figures_Pending(t *testing.T) {
	nodes := newTestCluster(t, 2, nil)
	left := leaderOf(t, nodes)
	for _, n := range nodes {
		if n != left {
			if err := n.stop(); err != nil {
				t.Fatal(err)
			}
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = left.propose("x")
	}()
	eventually(t, "a pending proposal", func() bool { return left.node.Figures().PendingProposals == 1 })
	if err := left.stop(); err != nil {
		t.Fatal(err)
	}
	<-done
	if got := left.node.Figures().PendingProposals; got != 0 {
		t.Errorf("%d proposals pend on a stopped node", got)
	}
}
