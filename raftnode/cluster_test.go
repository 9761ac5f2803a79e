package raftnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/bodies"
)

func TestMain(m *testing.M) {
	wal.SegmentSizeBytes = 256 << 10 // so that segments roll and are purged
	os.Exit(m.Run())
}

// listSM is a state machine that keeps every command in order. What is
// durable is a copy of the state as of the last sync; the test decides when
// that happens.
type listSM struct {
	mu      sync.Mutex
	now     listState
	durable listState
	staged  [][]byte
	base    int  // how much of the durable list lies before staged
	manual  bool // sync only by hand
	stages  int
	limit   int    // records a Serve sends at most, 0 = all
	from    origin // it was restored, as long as it belongs to no log

	store     *bodies.Store // nil: no command refers to a body
	recovered int           // calls of Recovered
}

type listState struct {
	Index, Term uint64
	Meta        []byte
	List        [][]byte
	Histories   []historyID // that it has gone through; the last is its own
}

func (s listState) clone() listState {
	s.List, s.Histories = slices.Clone(s.List), slices.Clone(s.Histories)
	return s
}

func (s *listSM) sync() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.durable = s.now.clone()
}

// setManual may be called while the node runs.
func (s *listSM) setManual(manual bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manual = manual
}

// crash forgets what was not durable.
func (s *listSM) crash() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = s.durable.clone()
}

func (s *listSM) list() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.clone().List
}

func (s *listSM) Durable() (uint64, uint64, []byte, []byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable.Index, s.durable.Term, s.durable.Meta, []byte(strconv.Itoa(len(s.durable.List))), nil
}

// Level takes "@2 …" for a command of level 2, and "!…" for what is no command.
func (s *listSM) Level(c []byte) (uint64, error) {
	switch {
	case len(c) > 0 && c[0] == '!':
		return 0, errors.New("it is no command")
	case len(c) > 1 && c[0] == '@':
		return uint64(c[1] - '0'), nil
	}
	return 1, nil
}

// Body takes "body <digest in hex> <size> …" for a command that refers to one.
func (s *listSM) Body(c []byte) (bodies.Ref, bool) {
	rest, ok := bytes.CutPrefix(c, []byte("body "))
	if !ok || len(rest) < 2*sha256.Size+2 {
		return bodies.Ref{}, false
	}
	var ref bodies.Ref
	if _, err := hex.Decode(ref.Digest[:], rest[:2*sha256.Size]); err != nil {
		return bodies.Ref{}, false
	}
	size, _, _ := bytes.Cut(rest[2*sha256.Size+1:], []byte(" "))
	n, err := strconv.Atoi(string(size))
	ref.Size = n
	return ref, err == nil
}

func (s *listSM) Recovered() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recovered++
}

func (s *listSM) Origin() (history [16]byte, position uint64, head []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	head, _ = hex.DecodeString(s.from.Head)
	return s.from.History, s.from.Revision, head, s.from != (origin{})
}

func (s *listSM) Fork(index, term uint64, meta []byte, history [16]byte) error {
	s.mu.Lock()
	s.now.Histories = append(slices.Clip(s.now.Histories), history)
	s.mu.Unlock()
	_, err := s.Apply(index, term, nil, meta)
	return err
}

// histories are those that the state has gone through.
func (s *listSM) histories() []historyID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.now.clone().Histories
}

// restore makes an empty state one that was restored.
func (s *listSM) restore(from origin, list ...[]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.from, s.now.List, s.now.Histories = from, list, []historyID{from.History}
	s.durable = s.now.clone()
}

func (s *listSM) Bootstrap(index, term uint64, meta []byte, history [16]byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Index, s.now.Term, s.now.Meta = index, term, meta
	s.now.Histories = append(slices.Clip(s.now.Histories), history)
	s.durable, s.from = s.now.clone(), origin{}
	return nil
}

func (s *listSM) Apply(index, term uint64, cmds [][]byte, meta []byte) ([]any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if index <= s.now.Index {
		return nil, fmt.Errorf("entry %d applied after %d", index, s.now.Index)
	}
	s.now.Index, s.now.Term = index, term
	if meta != nil {
		s.now.Meta = meta
	}
	results := make([]any, len(cmds))
	for i, c := range cmds {
		results[i] = s.put(c)
	}
	if !s.manual {
		s.durable = s.now.clone()
	}
	return results, nil
}

// put keeps a command once and answers its position from 1.
func (s *listSM) put(c []byte) int {
	for i, x := range s.now.List {
		if bytes.Equal(x, c) {
			return i + 1
		}
	}
	s.now.List = append(s.now.List, bytes.Clone(c))
	return len(s.now.List)
}

func (s *listSM) Resolve(c []byte) (any, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, x := range s.now.List {
		if bytes.Equal(x, c) {
			return i + 1, true, nil
		}
	}
	return nil, false, nil
}

func (s *listSM) Stage(ctx context.Context, snapshot []byte, fetch func(context.Context, string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error {
	want, err := strconv.Atoi(string(snapshot))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.stages++
	if len(s.staged) == 0 {
		s.base = len(s.durable.List)
	}
	have := s.base + len(s.staged)
	s.mu.Unlock()
	if have < want {
		body, err := fetch(ctx, fmt.Sprintf("from=%d&to=%d", have, want))
		if err != nil {
			return err
		}
		defer body.Close()
		var got [][]byte
		if err := json.NewDecoder(body).Decode(&got); err != nil {
			return err
		}
		if err := s.stageBodies(ctx, got, fetchBodies); err != nil {
			return err
		}
		s.mu.Lock()
		s.staged = append(s.staged, got...)
		have += len(got)
		s.mu.Unlock()
	}
	if have < want {
		return fmt.Errorf("have %d of %d", have, want)
	}
	return nil
}

// stageBodies brings the bodies here that commands refer to.
func (s *listSM) stageBodies(ctx context.Context, cmds [][]byte, fetch bodies.Fetch) error {
	if s.store == nil {
		return nil
	}
	for _, c := range cmds {
		ref, ok := s.Body(c)
		if !ok || s.store.Has(ref.Digest) {
			continue
		}
		if err := fetch(ctx, []bodies.Ref{ref}, func(b bodies.Body) error {
			_, err := s.store.Append(b.Digest, b.Data)
			return err
		}); err != nil {
			return err
		}
		if err := s.store.Sync(ctx); err != nil {
			return err
		}
		if !s.store.Has(ref.Digest) {
			return fmt.Errorf("nobody has body %s", ref.Digest)
		}
	}
	return nil
}

func (s *listSM) Install(index, term uint64, meta, snapshot []byte) error {
	want, err := strconv.Atoi(string(snapshot))
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.now.List) < want {
		s.now.List = append(s.now.List[:s.base:s.base], s.staged...)
	}
	s.now.List = s.now.List[:want:want]
	s.staged = nil
	s.now.Index, s.now.Term, s.now.Meta = index, term, meta
	s.durable = s.now.clone()
	return nil
}

func (s *listSM) Position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(len(s.now.List))
}

func (s *listSM) Digest(position uint64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if position > uint64(len(s.now.List)) {
		return nil, fmt.Errorf("have %d, not %d", len(s.now.List), position)
	}
	sum := sha256.Sum256(bytes.Join(s.now.List[:position], []byte("\n")))
	return sum[:], nil
}

func (s *listSM) Serve(ctx context.Context, query string, w io.Writer) error {
	q, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	from, _ := strconv.Atoi(q.Get("from"))
	to, _ := strconv.Atoi(q.Get("to"))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit > 0 {
		to = min(to, from+s.limit)
	}
	return json.NewEncoder(w).Encode(s.now.List[from:to])
}

// testNode is a node with its listener. stop and start simulate a crash (what
// is not durable is lost) or a restart.
type testNode struct {
	t     *testing.T
	cfg   Config
	sm    *listSM
	ln    net.Listener
	addr  string
	node  *Node
	stopF func() error
	errC  chan error

	values *bodies.Config // the node keeps bodies, in its directory
}

func newTestNode(t *testing.T, name string) *testNode {
	t.Helper()
	// Not 127.0.0.1, whose ports outgoing connections use too: a node that is
	// started again must find its own free.
	ln, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+rand.IntN(254), rand.IntN(256), 1+rand.IntN(254)))
	if err != nil {
		ln, err = net.Listen("tcp", "127.0.0.1:0") // the only one on some systems
	}
	if err != nil {
		t.Fatal(err)
	}
	level := slog.LevelWarn
	if os.Getenv("ONCEKV_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	dir := filepath.Join(t.TempDir(), name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	return &testNode{t: t, sm: &listSM{}, ln: ln, addr: ln.Addr().String(), cfg: Config{
		Dir: dir, Name: name, PeerURL: url, ClientURL: url, Tick: 50 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: level})),
	}}
}

func (n *testNode) start() {
	n.t.Helper()
	if n.ln == nil {
		ln, err := net.Listen("tcp", n.addr)
		if err != nil {
			n.t.Fatal(err)
		}
		n.ln = ln
	}
	if n.values != nil {
		cfg := *n.values
		cfg.Dir, cfg.Logger = filepath.Join(n.cfg.Dir, "values"), n.cfg.Logger
		store, err := bodies.Open(cfg)
		if err != nil {
			n.t.Fatal(err)
		}
		n.cfg.Bodies, n.sm.store = store, store
	}
	node, err := Open(n.cfg, n.sm)
	if err != nil {
		n.t.Fatal(err)
	}
	srv := &http.Server{Handler: node.Handler()}
	var wg sync.WaitGroup
	ln := n.ln
	wg.Go(func() { _ = srv.Serve(ln) })
	ctx, cancel := context.WithCancel(context.Background())
	n.errC = make(chan error, 1)
	errC := n.errC
	wg.Go(func() { errC <- node.Run(ctx) })
	n.node = node
	n.stopF = func() error {
		cancel()
		<-node.Stopped()
		_ = srv.Close()
		wg.Wait()
		if n.values != nil {
			_ = n.cfg.Bodies.Close()
		}
		n.ln = nil
		return <-errC
	}
	n.t.Cleanup(func() { n.stop() })
}

func (n *testNode) stop() error {
	if n.stopF == nil {
		return nil
	}
	f := n.stopF
	n.stopF = nil
	return f()
}

// patience is how long a test waits for what has to come, on a machine with two
// cores, the race detector, and other tests beside.
const patience = 2 * time.Minute

// eventually polls until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
		<-tick.C
	}
}

func newTestCluster(t *testing.T, size int, configure func(*Config)) []*testNode {
	t.Helper()
	var nodes []*testNode
	var peers []Peer
	for i := range size {
		n := newTestNode(t, fmt.Sprintf("n%d", i+1))
		nodes = append(nodes, n)
		peers = append(peers, Peer{n.cfg.Name, n.cfg.PeerURL})
	}
	for _, n := range nodes {
		n.cfg.InitialCluster = peers
		if configure != nil {
			configure(&n.cfg)
		}
		n.start()
	}
	leaderOf(t, nodes)
	return nodes
}

func leaderOf(t *testing.T, nodes []*testNode) *testNode {
	t.Helper()
	var leader *testNode
	eventually(t, "one leader that all running nodes agree on", func() bool {
		leader = nil
		var id ID
		for _, n := range nodes {
			if n.stopF == nil {
				continue
			}
			st := n.node.Status()
			if st.Leader == 0 || id != 0 && st.Leader != id {
				return false
			}
			id = st.Leader
			if st.ID == id {
				leader = n
			}
		}
		return leader != nil
	})
	return leader
}

func (n *testNode) propose(cmd string) (any, error) {
	return n.node.proposeOne(context.Background(), []byte(cmd))
}

func mustPropose(t *testing.T, n *testNode, cmd string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		_, err := n.node.proposeOne(ctx, []byte(cmd))
		if err == nil {
			return
		}
		if !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrOutcomeUnknown) || ctx.Err() != nil {
			t.Fatalf("propose %q: %v", cmd, err)
		}
	}
}

func sameLists(t *testing.T, nodes []*testNode, want int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d commands on every node", want), func() bool {
		for _, n := range nodes {
			if len(n.sm.list()) != want {
				return false
			}
		}
		return true
	})
	first := nodes[0].sm.list()
	for _, n := range nodes[1:] {
		for i, c := range n.sm.list() {
			if !bytes.Equal(c, first[i]) {
				t.Fatalf("%s has %q at %d, %s has %q", n.cfg.Name, c, i, nodes[0].cfg.Name, first[i])
			}
		}
	}
}

func TestNode_Propose_ThroughEveryNode(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	const each = 100
	var wg sync.WaitGroup
	for _, n := range nodes {
		for i := range each {
			wg.Go(func() {
				if _, err := n.propose(fmt.Sprintf("%s-%d", n.cfg.Name, i)); err != nil {
					t.Errorf("%s: %v", n.cfg.Name, err)
				}
			})
		}
	}
	wg.Wait()
	sameLists(t, nodes, 3*each)
}

func TestNode_ReadIndex_SeesAcknowledged(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	for i := range 50 {
		writer, reader := nodes[i%3], nodes[(i+1)%3]
		mustPropose(t, writer, fmt.Sprint(i))
		if err := reader.node.ReadIndex(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := len(reader.sm.list()); got < i+1 {
			t.Fatalf("read %d of %d acknowledged commands", got, i+1)
		}
	}
}

func TestNode_Restart_KeepsAcknowledged(t *testing.T) {
	nodes := newTestCluster(t, 3, func(c *Config) { c.SnapshotLogBytes = 4 << 10 })
	for _, n := range nodes {
		n.sm.setManual(true) // nothing but the WAL keeps the commands
	}
	for i := range 100 {
		mustPropose(t, nodes[i%3], fmt.Sprint(i))
	}
	nodes[0].sm.sync()
	for _, n := range nodes {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
		n.sm.crash()
	}
	for _, n := range nodes {
		n.start()
	}
	mustPropose(t, leaderOf(t, nodes), "after")
	sameLists(t, nodes, 101)
}

func TestNode_SingleVoter_RestartAndGrow(t *testing.T) {
	one := newTestCluster(t, 1, nil)[0]
	one.sm.setManual(true)
	for i := range 20 {
		mustPropose(t, one, fmt.Sprint(i))
	}
	if err := one.stop(); err != nil {
		t.Fatal(err)
	}
	one.sm.crash()
	one.start()
	mustPropose(t, one, "again")
	one.sm.setManual(false)
	mustPropose(t, one, "durable")
	two := joinNode(t, one, "n2", true)
	eventually(t, "n2 votes", func() bool { return two.node.Status().Role == RoleFollower })
	three := joinNode(t, two, "n3", true)
	eventually(t, "n3 votes", func() bool { return three.node.Status().Role == RoleFollower })
	mustPropose(t, three, "by n3")
	sameLists(t, []*testNode{one, two, three}, 23)
}

func joinNode(t *testing.T, via *testNode, name string, voter bool) *testNode {
	t.Helper()
	n := newTestNode(t, name)
	n.cfg.Join = func(ctx context.Context, self Member) ([]Member, error) {
		self.Promote = voter
		_, _, err := via.node.AddMember(ctx, self)
		return via.node.Status().Members, err
	}
	n.start()
	return n
}

func TestNode_LaggingMember_PullsWhatItLacks(t *testing.T) {
	nodes := newTestCluster(t, 3, func(c *Config) { c.SnapshotLogBytes, c.KeepLogBytes = 4<<10, 1<<10 })
	leader := leaderOf(t, nodes)
	var away *testNode
	for _, n := range nodes {
		if n != leader {
			away = n
		}
	}
	mustPropose(t, leader, "before")
	eventually(t, "one command", func() bool { return len(away.sm.list()) == 1 })
	if err := away.stop(); err != nil {
		t.Fatal(err)
	}
	pad := bytes.Repeat([]byte("x"), 8<<10)
	for i := range 200 {
		mustPropose(t, leader, fmt.Sprintf("%d-%s", i, pad))
	}
	eventually(t, "the log is compacted nearly to its end", func() bool {
		names, err := fileNames(snapDir(leader.cfg.Dir), ".snap")
		var term, index uint64
		if err == nil && len(names) > 0 {
			_, err = fmt.Sscanf(names[len(names)-1], "%016x-%016x.snap", &term, &index)
		}
		return err == nil && index > 190
	})
	for _, n := range nodes {
		n.sm.limit = 50 // no body brings everything: pulls must be resumed
	}
	away.start()
	sameLists(t, nodes, 201)
	if away.sm.stages < 4 {
		t.Fatalf("caught up with %d pulls, want 4 or more", away.sm.stages)
	}
	mustPropose(t, away, "through the one that was away")
	sameLists(t, nodes, 202)
}

func TestNode_LeaderStops_AnotherTakesOver(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	old := leaderOf(t, nodes)
	done := make(chan error, 1)
	var other *testNode
	for _, n := range nodes {
		if n != old {
			other = n
		}
	}
	go func() {
		for i := range 300 {
			if _, err := other.propose(fmt.Sprint(i)); err != nil {
				done <- fmt.Errorf("%d: %w", i, err)
				return
			}
		}
		done <- nil
	}()
	eventually(t, "some commands", func() bool { return len(other.sm.list()) > 20 })
	if err := old.stop(); err != nil {
		t.Fatal(err)
	}
	// Proposals forwarded to the stopped leader are proposed again: no error.
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	old.start()
	sameLists(t, nodes, 300)
}

func TestNode_Membership_Guards(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	ctx := context.Background()
	leader := leaderOf(t, nodes)
	var follower, third *testNode
	for _, n := range nodes {
		switch {
		case n == leader:
		case follower == nil:
			follower = n
		default:
			third = n
		}
	}
	if err := follower.node.RemoveMember(ctx, "nobody", false); !errors.Is(err, ErrUnknownMember) {
		t.Fatalf("remove nobody: %v", err)
	}
	if err := follower.node.PromoteMember(ctx, third.cfg.Name); !errors.Is(err, ErrRefused) {
		t.Fatalf("promote a voter: %v", err)
	}
	if _, _, err := follower.node.AddMember(ctx, Member{ID: 77, Name: leader.cfg.Name, PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"}); !errors.Is(err, ErrRefused) {
		t.Fatalf("same name, other id: %v", err)
	}
	if _, created, err := follower.node.AddMember(ctx, Member{ID: leader.node.ID(), Name: leader.cfg.Name, PeerURL: leader.cfg.PeerURL, ClientURL: leader.cfg.ClientURL}); err != nil || created {
		t.Fatalf("same member again: created %v, %v", created, err)
	}
	if err := third.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the leader misses the third", func() (missed bool) {
		if err := leader.node.call(ctx, func(c *core) { missed = !c.active(third.node.ID()) }); err != nil {
			t.Fatal(err)
		}
		return missed
	})
	if err := leader.node.RemoveMember(ctx, follower.cfg.Name, false); !errors.Is(err, ErrRefused) {
		t.Fatalf("removal that loses quorum: %v", err)
	}
	if err := follower.node.RemoveMember(ctx, third.cfg.Name, false); err != nil {
		t.Fatalf("remove the dead member: %v", err)
	}
	// Its ID never comes back.
	_, _, err := leader.node.AddMember(ctx, Member{ID: third.node.ID(), Name: "n9", PeerURL: "http://127.0.0.1:1", ClientURL: "http://127.0.0.1:1"})
	if !errors.Is(err, ErrRefused) {
		t.Fatalf("removed id again: %v", err)
	}
	third.start()
	select {
	case err := <-third.errC:
		third.errC <- err
		if !errors.Is(err, ErrRemoved) {
			t.Fatalf("removed node ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the removed node did not stop")
	}
}

func TestNode_RemoveLeader_HandsOverFirst(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	leader := leaderOf(t, nodes)
	mustPropose(t, leader, "one")
	if err := leader.node.RemoveMember(context.Background(), leader.cfg.Name, false); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-leader.errC:
		leader.errC <- err
		if !errors.Is(err, ErrRemoved) {
			t.Fatalf("the removed leader ended with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the removed leader did not stop")
	}
	var rest []*testNode
	for _, n := range nodes {
		if n != leader {
			rest = append(rest, n)
		}
	}
	mustPropose(t, rest[0], "two")
	sameLists(t, rest, 2)
	// The last voter can never go.
	if err := rest[0].node.RemoveMember(context.Background(), rest[1].cfg.Name, false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one member", func() bool { return len(rest[0].node.Status().Members) == 1 })
	if err := rest[0].node.RemoveMember(context.Background(), rest[0].cfg.Name, true); !errors.Is(err, ErrRefused) {
		t.Fatalf("removing the last voter: %v", err)
	}
}

func TestNode_LostData_NeverVotesAgain(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	mustPropose(t, nodes[0], "one")
	lost := nodes[2]
	if err := lost.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(lost.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(lost.cfg.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lost.sm = &listSM{}
	lost.start()
	select {
	case err := <-lost.errC:
		lost.errC <- err
		if !errors.Is(err, ErrLostData) {
			t.Fatalf("the wiped node ended with %v", err)
		}
		t.Log(err)
	case <-time.After(patience):
		t.Fatal("the wiped node did not stop")
	}
}

func TestNode_TransferLeader(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	for i := range 6 {
		to := nodes[i%3]
		for try := 1; ; try++ {
			if err := nodes[(i+1)%3].node.TransferLeader(context.Background(), to.cfg.Name); err != nil {
				t.Fatal(err)
			}
			got := leaderOf(t, nodes)
			if got == to {
				break
			}
			if try == 3 { // a machine that stood still may have made them vote again
				t.Fatalf("leader %s, want %s", got.cfg.Name, to.cfg.Name)
			}
		}
	}
}

func TestNode_ForceNewCluster_KeepsEverything(t *testing.T) {
	nodes := newTestCluster(t, 3, nil)
	for i := range 30 {
		mustPropose(t, nodes[0], fmt.Sprint(i))
	}
	sameLists(t, nodes, 30)
	for _, n := range nodes {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	survivor := nodes[1]
	survivor.cfg.ForceNewCluster = ForceOnce
	survivor.start()
	mustPropose(t, survivor, "alone")
	if got := survivor.node.Status().Members; len(got) != 1 {
		t.Fatalf("members %v, want the survivor alone", got)
	}
	sameLists(t, nodes[1:2], 31)
	if err := survivor.stop(); err != nil {
		t.Fatal(err)
	}
	survivor.cfg.ForceNewCluster = ""
	survivor.start()
	mustPropose(t, survivor, "again")
	sameLists(t, nodes[1:2], 32)
}

func TestNode_NoLeader_IsUnavailable(t *testing.T) {
	nodes := newTestCluster(t, 3, func(c *Config) { c.NoLeaderTimeout = 300 * time.Millisecond })
	for _, n := range nodes[1:] {
		if err := n.stop(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "no leader", func() bool { return nodes[0].node.Status().Leader == 0 })
	if _, err := nodes[0].propose("x"); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("propose without a leader: %v", err)
	}
	if err := nodes[0].node.ReadIndex(context.Background()); !errors.Is(err, ErrUnavailable) {
		t.Fatalf("read without a leader: %v", err)
	}
}
