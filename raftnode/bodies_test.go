package raftnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// newBodyCluster is newTestCluster of nodes that keep bodies.
func newBodyCluster(t *testing.T, size int, configure func(*testNode)) []*testNode {
	t.Helper()
	var nodes []*testNode
	var peers []Peer
	for i := range size {
		n := newTestNode(t, fmt.Sprintf("n%d", i+1))
		n.values = &bodies.Config{}
		nodes = append(nodes, n)
		peers = append(peers, Peer{n.cfg.Name, n.cfg.PeerURL})
	}
	for _, n := range nodes {
		n.cfg.InitialCluster = peers
		if configure != nil {
			configure(n)
		}
		n.start()
	}
	leaderOf(t, nodes)
	return nodes
}

func randomBody(seed uint64, size int) bodies.Body {
	r := rand.New(rand.NewPCG(seed, 7))
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return bodies.Body{Digest: sha256.Sum256(data), Data: data}
}

// referTo is a command that refers to a body, see listSM.Body.
func referTo(b bodies.Body) string { return fmt.Sprintf("body %s %d ", b.Digest, len(b.Data)) }

// has reports whether a node has a body, whole and durable.
func (n *testNode) has(b bodies.Body) bool {
	got, err := n.cfg.Bodies.Read(b.Digest, nil)
	return err == nil && bytes.Equal(got, b.Data) && n.cfg.Bodies.Has(b.Digest)
}

func mustDistribute(t *testing.T, n *testNode, list ...bodies.Body) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := n.node.Distribute(ctx, list)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrUnavailable) || ctx.Err() != nil {
			t.Fatalf("distribute: %v", err)
		}
	}
}

func others(nodes []*testNode, not ...*testNode) (rest []*testNode) {
	for _, n := range nodes {
		skip := false
		for _, x := range not {
			skip = skip || x == n
		}
		if !skip {
			rest = append(rest, n)
		}
	}
	return rest
}

// When Distribute returns, the leader and a majority have the body, whichever node was
// asked; then every member gets it, and the command.
func TestNode_Distribute(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	for i, n := range nodes {
		list := []bodies.Body{randomBody(uint64(i), 1<<20), randomBody(uint64(i)+10, 20_000), randomBody(uint64(i)+20, 1)}
		mustDistribute(t, n, list...)
		for _, b := range list {
			having := 0
			for _, x := range nodes {
				if x.has(b) {
					having++
				}
			}
			if having < 2 || !leader.has(b) || !n.has(b) {
				t.Errorf("%d nodes have a body of %d bytes, leader %v, %s %v", having, len(b.Data), leader.has(b), n.cfg.Name, n.has(b))
			}
			mustPropose(t, n, referTo(b))
		}
	}
	sameLists(t, nodes, 9)
	for i := range nodes {
		for _, b := range []bodies.Body{randomBody(uint64(i), 1<<20), randomBody(uint64(i)+10, 20_000), randomBody(uint64(i)+20, 1)} {
			for _, n := range nodes {
				if !n.has(b) {
					t.Errorf("%s applied a command without its body of %d bytes", n.cfg.Name, len(b.Data))
				}
			}
		}
	}
}

// A single voter distributes to nobody.
func TestNode_Distribute_Alone(t *testing.T) {
	n := newBodyCluster(t, 1, nil)[0]
	b := randomBody(1, 100_000)
	mustDistribute(t, n, b)
	mustPropose(t, n, referTo(b))
	if !n.has(b) {
		t.Error("the body is not here")
	}
	if err := n.node.Distribute(t.Context(), nil); err != nil {
		t.Errorf("nothing to distribute: %v", err)
	}
}

// What a follower was never sent it fetches before it takes the entry.
func TestNode_FollowerWithoutTheBody_FetchesIt(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	b := randomBody(1, 500_000)
	// Beside Distribute: no other node has it.
	if _, err := leader.cfg.Bodies.Append(b.Digest, b.Data); err != nil {
		t.Fatal(err)
	}
	if err := leader.cfg.Bodies.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, n := range others(nodes, leader) {
		if n.has(b) {
			t.Fatalf("%s has the body", n.cfg.Name)
		}
	}
	mustPropose(t, leader, referTo(b))
	sameLists(t, nodes, 1)
	for _, n := range nodes {
		if !n.has(b) {
			t.Errorf("%s applied the command without its body", n.cfg.Name)
		}
	}
}

// A leader fetches what only the member has that forwards the command.
func TestNode_LeaderWithoutTheBody_FetchesIt(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	follower := others(nodes, leaderOf(t, nodes))[0]
	b := randomBody(1, 500_000)
	if _, err := follower.cfg.Bodies.Append(b.Digest, b.Data); err != nil {
		t.Fatal(err)
	}
	if err := follower.cfg.Bodies.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustPropose(t, follower, referTo(b))
	sameLists(t, nodes, 1)
	for _, n := range nodes {
		if !n.has(b) {
			t.Errorf("%s applied the command without its body", n.cfg.Name)
		}
	}
}

// A command whose body is nowhere is refused, and others go on.
func TestNode_BodyThatIsNowhere(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	b := randomBody(1, 1000)
	if _, err := leader.propose(referTo(b)); !errors.Is(err, ErrBodyMissing) {
		t.Errorf("the leader's own: %v", err)
	}
	follower := others(nodes, leader)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := follower.node.Propose(ctx, []byte(referTo(b))); !errors.Is(err, ErrOutcomeUnknown) {
		t.Errorf("a follower's: %v", err)
	}
	mustPropose(t, follower, "after")
	sameLists(t, nodes, 1)
}

// With a member down, Distribute needs the others only; the member gets it when it is
// back. With a majority down it says so, and nothing is proposed.
func TestNode_Distribute_MembersDown(t *testing.T) {
	nodes := newBodyCluster(t, 3, func(n *testNode) {
		n.cfg.NoLeaderTimeout, n.cfg.ProposeTimeout = time.Second, 3*time.Second
	})
	leader := leaderOf(t, nodes)
	followers := others(nodes, leader)
	if err := followers[0].stop(); err != nil {
		t.Fatal(err)
	}
	var list []bodies.Body
	for i := range 40 { // more than is kept for a member that is slow
		list = append(list, randomBody(uint64(i), 1<<20))
		mustDistribute(t, followers[1], list[i])
		mustPropose(t, followers[1], referTo(list[i]))
	}
	followers[0].start()
	sameLists(t, nodes, 40)
	for _, b := range list {
		if !followers[0].has(b) {
			t.Fatal("the member that was down lacks a body")
		}
	}
	for _, n := range followers {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	if err := leader.node.Distribute(t.Context(), list[:1]); !errors.Is(err, ErrUnavailable) {
		t.Errorf("without a majority: %v", err)
	}
}

// The leader that stops while bodies and commands are on their way costs nothing.
func TestNode_Distribute_LeaderStops(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	old := leaderOf(t, nodes)
	other := others(nodes, old)[0]
	done := make(chan error, 1)
	const puts = 120
	go func() {
		for i := range puts {
			b := randomBody(uint64(i), 50_000)
			if err := other.node.Distribute(t.Context(), []bodies.Body{b}); err != nil {
				done <- fmt.Errorf("distribute %d: %w", i, err)
				return
			}
			if _, err := other.propose(referTo(b)); err != nil {
				done <- fmt.Errorf("propose %d: %w", i, err)
				return
			}
		}
		done <- nil
	}()
	eventually(t, "some commands", func() bool { return len(other.sm.list()) > 20 })
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	old.start()
	sameLists(t, nodes, puts)
	for i := range puts {
		for _, n := range nodes {
			if !n.has(randomBody(uint64(i), 50_000)) {
				t.Fatalf("%s lacks body %d", n.cfg.Name, i)
			}
		}
	}
}
