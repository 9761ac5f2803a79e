package raftnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
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
	leader.appendBody(b)
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
	follower.appendBody(b)
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
	if _, err := leader.propose(referTo(b)); !errors.Is(err, errBodyMissing) {
		t.Errorf("the leader's own: %v", err)
	}
	follower := others(nodes, leader)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := follower.node.proposeOne(ctx, []byte(referTo(b))); !errors.Is(err, ErrOutcomeUnknown) {
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

// appendBody keeps a body on one node, durably, beside Distribute.
func (n *testNode) appendBody(b bodies.Body) {
	n.t.Helper()
	if _, err := n.cfg.Bodies.Append(b.Digest, b.Data); err != nil {
		n.t.Fatal(err)
	}
	if err := n.cfg.Bodies.Sync(n.t.Context()); err != nil {
		n.t.Fatal(err)
	}
}

// stopAndLose stops a node, and takes everything from it that its bodies were; then it has
// those of the list again.
func (n *testNode) stopAndLose(keep ...bodies.Body) {
	n.t.Helper()
	if err := n.stop(); err != nil {
		n.t.Fatal(err)
	}
	dir := filepath.Join(n.cfg.Dir, "values")
	if err := os.RemoveAll(dir); err != nil {
		n.t.Fatal(err)
	}
	store, err := bodies.Open(bodies.Config{Dir: dir})
	if err != nil {
		n.t.Fatal(err)
	}
	for _, b := range keep {
		if _, err := store.Append(b.Digest, b.Data); err != nil {
			n.t.Fatal(err)
		}
	}
	if err := errors.Join(store.Sync(n.t.Context()), store.Close()); err != nil {
		n.t.Fatal(err)
	}
}

// A start holds the bodies of the log, above the applied index too, before anything may
// be reclaimed.
func TestNode_Restart_HoldsTheBodiesOfItsLog(t *testing.T) {
	n := newBodyCluster(t, 1, func(n *testNode) { n.values.Grace = time.Nanosecond })[0]
	n.sm.setManual(true)
	var list []bodies.Body
	for i := range 5 {
		list = append(list, randomBody(uint64(i), 30_000))
		mustDistribute(t, n, list[i])
		mustPropose(t, n, referTo(list[i]))
	}
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.sm.crash()
	n.start()
	mustPropose(t, n, "after")
	if n.sm.recovered != 2 {
		t.Errorf("%d starts called Recovered %d times", 2, n.sm.recovered)
	}
	if err := n.cfg.Bodies.Reclaim(); err != nil {
		t.Fatal(err)
	}
	for i, b := range list {
		if !n.has(b) {
			t.Errorf("body %d was reclaimed, although the log needs it", i)
		}
	}
}

// A body that is missing above the applied index is damage.
func TestNode_Restart_WithoutABodyItMustApply(t *testing.T) {
	n := newBodyCluster(t, 1, nil)[0]
	n.sm.setManual(true)
	b := randomBody(1, 30_000)
	mustDistribute(t, n, b)
	mustPropose(t, n, referTo(b))
	n.stopAndLose()
	n.sm.crash()
	n.start()
	err := <-n.errC
	n.errC <- err
	if !errors.Is(err, errDisk) || !strings.Contains(err.Error(), b.Digest.String()) || !strings.Contains(err.Error(), putBack) {
		t.Errorf("the node ends with %v", err)
	}
	if n.sm.recovered != 1 {
		t.Error("what is here may be reclaimed")
	}
}

// Below the applied index a body may be gone: the node goes on from a snapshot, and
// whoever needs older entries pulls.
func TestNode_Restart_WithoutABodyItHasApplied(t *testing.T) {
	nodes := newBodyCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	away := others(nodes, leader)[0]
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	gone, kept := randomBody(1, 30_000), randomBody(2, 30_000)
	for _, b := range []bodies.Body{gone, kept} {
		mustDistribute(t, leader, b)
		mustPropose(t, leader, referTo(b))
	}
	mustPropose(t, leader, "last")
	running := others(nodes, away)
	sameLists(t, running, 3)
	for _, n := range running {
		n.stopAndLose(kept)
		n.sm.now.List[0] = []byte("it was dropped since")
		n.sm.sync()
	}
	for _, n := range running {
		n.start()
	}
	leader = leaderOf(t, nodes)
	log := leader.node.Status().Applied
	mustPropose(t, leader, "after")
	names, err := fileNames(snapDir(leader.cfg.Dir), ".snap")
	if err != nil || len(names) < 2 {
		t.Errorf("no snapshot was taken up to entry %d: %v, %v", log, names, err)
	}
	away.start()
	sameLists(t, nodes, 4)
	if away.sm.stages == 0 {
		t.Error("the member that was away did not pull")
	}
	if away.has(gone) || !away.has(kept) {
		t.Error("the member that was away has the wrong bodies")
	}
}

// The log in memory holds the bodies of its entries, no others, and counts their bytes.
func TestMemlog_Bodies(t *testing.T) {
	t.Parallel()
	store, err := bodies.Open(bodies.Config{Dir: t.TempDir(), Grace: time.Nanosecond})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var list []bodies.Body
	entry := func(index uint64, seeds ...uint64) raftpb.Entry {
		var cmds []command
		for _, seed := range seeds {
			b := randomBody(seed, 100_000)
			if _, err := store.Append(b.Digest, b.Data); err != nil {
				t.Fatal(err)
			}
			list = append(list, b)
			cmds = append(cmds, command{origin: 1, seq: seed, data: []byte(referTo(b))})
		}
		if err := store.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		return raftpb.Entry{Index: index, Term: 1, Data: encodeBatch(cmds)}
	}
	l := newMemlog(references{store, (&listSM{}).Body})
	check := func(when string, bytes int, seeds ...uint64) {
		t.Helper()
		if err := store.Reclaim(); err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(9) {
			if want := slices.Contains(seeds, seed); store.Has(randomBody(seed, 100_000).Digest) != want {
				t.Errorf("%s: body %d is held: %v", when, seed, !want)
			}
		}
		if l.bytes < bytes || l.bytes > bytes+2000 {
			t.Errorf("%s: the log has %d bytes, not about %d", when, l.bytes, bytes)
		}
	}
	add := func(entries ...raftpb.Entry) {
		t.Helper()
		if _, err := l.add(entries, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	add(entry(1, 1), entry(2, 2, 3), entry(3), entry(4, 2, 4))
	check("after add", 500_000, 1, 2, 3, 4)
	for _, c := range []struct{ limit, count uint64 }{{0, 1}, {99_999, 1}, {320_000, 3}, {600_000, 4}, {math.MaxUint64, 4}} {
		if got, err := l.Entries(1, 5, c.limit); err != nil || uint64(len(got)) != c.count {
			t.Errorf("a limit of %d bytes gives %d entries, not %d: %v", c.limit, len(got), c.count, err)
		}
	}
	add(entry(4, 5))
	check("after entry 4 was replaced", 400_000, 1, 2, 3, 5)
	add(entry(2, 6))
	check("after entries 2 to 4 were replaced", 200_000, 1, 6)
	add(entry(3, 7))
	if err := l.snapshotted(raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 2, Term: 1}}, 0); err != nil {
		t.Fatal(err)
	}
	check("after a snapshot at entry 2", 100_000, 7)
	if err := l.restore(raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 9, Term: 1}}); err != nil {
		t.Fatal(err)
	}
	check("after a snapshot of another member", 0)
	if _, err := l.add([]raftpb.Entry{entry(10, 8), {Index: 11, Term: 1, Data: encodeBatch([]command{{origin: 1, seq: 1, data: []byte(referTo(list[0]))}})}}, 0, 0); !errors.Is(err, errDisk) || !strings.Contains(err.Error(), "entry 11 refers to body") {
		t.Errorf("an entry without its body: %v", err)
	}
}

// pushed posts to a node's peer port what another member, or anybody, pushes.
func (n *testNode) pushed(frames func(w io.Writer) error) (status int, answers string) {
	n.t.Helper()
	var body bytes.Buffer
	if err := frames(&body); err != nil {
		n.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodPost, n.cfg.PeerURL+bodiesPath, &body)
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set(clusterHeader, n.node.Status().ClusterID.String())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return resp.StatusCode, string(said)
}

// What strangers push neither stops a node nor stays: it is checked, it is refused while
// there is no room, and it is forgotten.
func TestNode_PushesOfStrangers(t *testing.T) {
	var full atomic.Bool
	n := newBodyCluster(t, 1, func(n *testNode) {
		n.values.Grace = time.Nanosecond
		n.cfg.LacksRoom = full.Load
	})[0]
	b, c, absent := randomBody(1, 30_000), randomBody(2, 30_000), randomBody(3, 30_000)
	all := func(w io.Writer) error {
		return errors.Join(bodies.WriteBody(w, b), bodies.WriteAsk(w, bodies.Ref{Digest: absent.Digest, Size: 30_000}), bodies.WriteBody(w, c), bodies.WriteEnd(w))
	}
	if status, answers := n.pushed(all); status != http.StatusOK || answers != "dmd" || !n.has(b) || !n.has(c) {
		t.Errorf("bodies: %d, %q", status, answers)
	}
	for name, frames := range map[string]func(w io.Writer) error{
		"nothing":        func(io.Writer) error { return nil },
		"no frame":       func(w io.Writer) error { _, err := w.Write([]byte("GET / HTTP/1.1\r\n")); return err },
		"another digest": func(w io.Writer) error { return bodies.WriteBody(w, bodies.Body{Digest: absent.Digest, Data: b.Data}) },
		"no end":         func(w io.Writer) error { return bodies.WriteBody(w, b) },
		"too many": func(w io.Writer) error {
			for range pushFrames + 2 {
				if err := bodies.WriteAsk(w, bodies.Ref{Digest: absent.Digest, Size: 1}); err != nil {
					return err
				}
			}
			return bodies.WriteEnd(w)
		},
	} {
		if status, answers := n.pushed(frames); status != http.StatusBadRequest {
			t.Errorf("%s: %d, %q", name, status, answers)
		}
	}
	if n.has(absent) {
		t.Error("a body was taken under another's name")
	}
	if err := n.cfg.Bodies.Reclaim(); err != nil || n.has(b) {
		t.Errorf("what a stranger pushed stays: %v", err)
	}
	full.Store(true)
	if status, answers := n.pushed(all); status != http.StatusInsufficientStorage || answers != "rmr" || n.has(b) {
		t.Errorf("with a full disk: %d, %q", status, answers)
	}
	if n.node.budget.used != 0 {
		t.Errorf("%d bytes stay reserved", n.node.budget.used)
	}
	mustPropose(t, n, "after")
	for _, query := range []string{"", "?digest=", "?digest=abc", "?digest=" + strings.Repeat(b.Digest.String()+",", 65)} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.cfg.PeerURL+bodiesPath+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(clusterHeader, n.node.Status().ClusterID.String())
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("GET %s: %s", query, resp.Status)
		}
	}
}

// So much that nothing refers to is kept, and no more before some of it is forgotten.
func TestNode_PushesOfStrangers_AreBounded(t *testing.T) {
	n := newBodyCluster(t, 1, func(n *testNode) {
		n.values.Grace = time.Nanosecond
		n.cfg.strays = 50_000
	})[0]
	push := func(seed uint64) (int, string) {
		return n.pushed(func(w io.Writer) error {
			return errors.Join(bodies.WriteBody(w, randomBody(seed, 30_000)), bodies.WriteEnd(w))
		})
	}
	for seed, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if status, answers := push(uint64(seed)); status != want {
			t.Errorf("push %d: %d, %q", seed, status, answers)
		}
	}
	if n.has(randomBody(2, 30_000)) {
		t.Error("what was refused is here")
	}
	if err := n.cfg.Bodies.Reclaim(); err != nil {
		t.Fatal(err)
	}
	if status, answers := push(2); status != http.StatusOK || answers != "d" {
		t.Errorf("when the others were forgotten: %d, %q", status, answers)
	}
}

// Members without room are told apart from members that do not answer.
func TestNode_Distribute_NoRoom(t *testing.T) {
	var full atomic.Bool
	nodes := newBodyCluster(t, 3, func(n *testNode) { n.cfg.LacksRoom = full.Load })
	mustDistribute(t, nodes[0], randomBody(1, 1000))
	full.Store(true)
	if err := nodes[0].node.Distribute(t.Context(), []bodies.Body{randomBody(2, 1000)}); !errors.Is(err, ErrDiskFull) {
		t.Errorf("no other member has room: %v", err)
	}
	full.Store(false)
	mustDistribute(t, nodes[0], randomBody(2, 1000))
}

// When the bodies cannot be written any more the node ends as after any write that failed.
func TestNode_BodiesFail(t *testing.T) {
	var broken atomic.Bool
	nodes := newBodyCluster(t, 3, nil)
	n := others(nodes, leaderOf(t, nodes))[0]
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	n.values.Sync = func(path string) error {
		if broken.Load() {
			return syscall.EIO
		}
		return fsync.Sync(path)
	}
	n.start()
	leaderOf(t, nodes)
	broken.Store(true)
	b := randomBody(1, 30_000)
	mustDistribute(t, leaderOf(t, nodes), b)
	err := <-n.errC
	n.errC <- err
	if !errors.Is(err, errDisk) || !errors.Is(err, writefault.Err) {
		t.Errorf("the node ends with %v", err)
	}
	mustPropose(t, leaderOf(t, others(nodes, n)), referTo(b))
}
