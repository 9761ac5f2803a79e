package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/kvstore"
)

// simNode is a machine of a simulation: its disks outlive the processes on it.
type simNode struct {
	w    *simWorld
	id   ID
	disk *simDisk

	history, index, staging       *kvstore.MemEngine
	onHistory, onIndex, onStaging *simDice
	writes                        *simWrites // of the process

	life   *simLife // nil while no process runs
	wakeAt int64    // step at which one starts again
	frozen int64    // step until which the process stands still
	phase  int64    // steps until the next tick
	gone   bool     // removed from the cluster, and stopped
}

// simLife is one process: the production node, store and DB, driven step by step.
type simLife struct {
	node  *Node
	store *kvstore.Store
	db    *kvstore.DB
	inbox []raftpb.Message
	todo  []handoff       // handed off, not applied
	pull  *raftpb.Message // the snapshot that is being pulled
	dead  bool

	stopStore context.CancelFunc
	storeRuns sync.WaitGroup
	storeErr  atomic.Pointer[error] // why the store's Run ended
}

func (s *simNode) send(msgs []raftpb.Message) {
	for _, m := range msgs {
		s.w.post(s, m)
	}
}

// simDialer is how a node asks another one to change the members.
type simDialer struct{ from *simNode }

// RoundTrip implements http.RoundTripper.
func (d simDialer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := d.from.w
	w.turned(r.Context(), "")
	for id, to := range w.nodes {
		if to.life == nil || simMember(id).PeerURL != "http://"+r.URL.Host {
			continue
		}
		if !w.connected(d.from.id, id) || !w.connected(id, d.from.id) {
			break
		}
		answer := httptest.NewRecorder()
		to.life.node.Handler().ServeHTTP(answer, r)
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
		return answer.Result(), nil
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("nobody answers")}
}

func (s *simNode) setPeer(ID, string) {}
func (s *simNode) stop()              {}

// simLog is the log a DB proposes to, as internal/server wires it.
type simLog struct {
	w    *simWorld
	node *Node
}

func (l simLog) Propose(ctx context.Context, command []byte) (any, error) {
	by := string(command[:min(len(command), 64)])
	l.w.turned(ctx, by)
	result, err := l.node.Propose(ctx, command)
	l.w.turned(ctx, by) // the answer came in the middle of a node's step
	return result, simStoreError(err)
}

func (l simLog) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	by := string(commands[0][:min(len(commands[0]), 64)])
	l.w.turned(ctx, by)
	l.node.ProposeMany(ctx, commands, func(i int, result any, err error) { each(i, result, simStoreError(err)) })
	l.w.turned(ctx, by)
}

func (l simLog) ReadIndex(ctx context.Context) error {
	l.w.turned(ctx, "")
	err := l.node.ReadIndex(ctx)
	l.w.turned(ctx, "")
	return simStoreError(err)
}

func simStoreError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrOverloaded):
		return fmt.Errorf("%w: %w", kvstore.ErrOverloaded, err)
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrStopped), errors.Is(err, ErrCommandTooLarge):
		return fmt.Errorf("%w: %w", kvstore.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", kvstore.ErrOutcomeUnknown, err)
}

// simDice decides about the writes of one file: each has its own, because the
// store writes them from several goroutines, in no order.
type simDice struct {
	w *simWorld

	mu sync.Mutex
	r  *rand.Rand
}

func newSimDice(w *simWorld) *simDice {
	return &simDice{w: w, r: rand.New(rand.NewPCG(w.r.Uint64(), 3))}
}

// breaks decides about one durable write.
func (d *simDice) breaks() (broken, after bool) {
	if d.w.calm.Load() {
		return false, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64() < d.w.p.diskFail, d.r.IntN(2) == 0
}

// hook makes commits to an engine fail, now and then.
func (d *simDice) hook(int) kvstore.FailPoint {
	switch broken, after := d.breaks(); {
	case !broken:
		return kvstore.FailNever
	case after:
		return kvstore.FailAfter
	}
	return kvstore.FailBefore
}

func (s *simNode) storeConfig() kvstore.StoreConfig {
	return kvstore.StoreConfig{
		History: s.history, Index: s.index,
		OpenStaging: func() (kvstore.Engine, error) {
			s.staging = s.staging.Reopen()
			s.staging.OnUpdate(s.onStaging.hook)
			return s.staging, nil
		},
		RemoveStaging: func() error {
			s.staging = kvstore.NewMemEngine()
			return nil
		},
		CommitBytes: s.w.p.commitBytes, CommitInterval: s.w.p.commitEvery,
		OverlayBytes: s.w.p.overlayBytes, GenerationBytes: s.w.p.overlayBytes / 8, IndexSliceKeys: 3,
	}
}

// boot starts a process on what the disks hold.
func (s *simNode) boot() error {
	s.history, s.index = s.history.Reopen(), s.index.Reopen()
	s.writes = &simWrites{passing: true}
	s.history.OnUpdate(s.writes.hook(simHistory, s.onHistory))
	s.index.OnUpdate(s.writes.hook(simIndex, s.onIndex))
	store, err := kvstore.OpenStore(s.storeConfig())
	if err != nil {
		return err
	}
	cfg := Config{Name: fmt.Sprintf("n%d", s.id), SnapshotLogBytes: s.w.p.snapshotBytes, KeepLogBytes: s.w.p.snapshotBytes / 2, Logger: s.w.logger(s.id)}
	cfg.setDefaults()
	ws, p := newWaiters(s.w.r.Uint64()|1), &progress{}
	sm := simStore{store, s}
	n := &Node{cfg: cfg, sm: sm, self: identity{ID: s.id, Name: cfg.Name, ClusterID: 9}, logger: cfg.Logger,
		client: &http.Client{Transport: simDialer{s}}, inbox: newInbox(), dropped: newDroppedMessages(cfg.Logger), bodies: newBodyBudget(1 << 20), bodyIdle: time.Hour, waiters: ws, progress: p, stopped: make(chan struct{}), pulls: make(chan pulled, 1), disk: s.disk, transport: s}
	n.applier = newApplier(sm, ws, p)
	n.identity.Store(&n.self)
	n.removed.Store(&map[ID]bool{})
	n.status.Store(&Status{})
	found := s.disk.synced
	found.entries = append([]raftpb.Entry(nil), found.entries...)
	if err := n.rebuild(context.Background(), found); err != nil {
		return err
	}
	life := &simLife{node: n, store: store, db: kvstore.NewDB(store, simLog{s.w, n}, kvstore.DBConfig{Rand: s.w.entropy})}
	ctx, cancel := context.WithCancel(context.Background())
	life.stopStore = cancel
	life.storeRuns.Go(func() {
		if err := store.Run(ctx); err != nil {
			life.storeErr.Store(&err)
		}
	})
	s.life, s.phase = life, 1+s.w.r.Int64N(simTick)
	synctest.Wait()
	s.writes.set(s.w.calm.Load())
	return nil
}

// crash ends the process. Whoever waits for it learns that its answer is lost.
func (s *simNode) crash(power bool) {
	life := s.life
	s.life = nil
	life.dead = true
	life.node.refuseAll()
	close(life.node.stopped)
	s.history.Crash() // before the store hears that it shall end, and commits
	s.index.Crash()
	s.staging.Crash()
	s.writes.pass() // what was on its way is lost
	life.stopStore()
	life.storeRuns.Wait()
	_ = life.store.Close()
	s.disk.crash(s.w.r, power)
	s.wakeAt, s.frozen = s.w.step+s.w.r.Int64N(300), 0
}

// run lets the process do what it can in one step; an error is its end.
func (s *simNode) run() error {
	life := s.life
	n := life.node
	s.write()
	if s.phase--; s.phase <= 0 {
		s.phase = simTick
		n.core.tick()
		if n.core.now%checkpointTicks == 0 {
			if err := n.checkpoint(); err != nil {
				return err
			}
		}
	}
	for _, m := range life.inbox {
		if err := n.core.honest(&m); err != nil && s.w.p.lies == 0 && !n.core.members.removed[ID(m.From)] && !s.newcomer(&m) {
			s.w.fatalf("n%d takes a message of n%d for a lie: %v: %v", s.id, m.From, err, m)
		}
		n.core.step(m)
	}
	life.inbox = nil
	n.deliver(n.inbox.take())
	if life.pull != nil && s.w.dice(0.2) {
		s.stage()
	}
	for w, ok := n.core.next(); ok; w, ok = n.core.next() {
		stage := w.stage
		w.stage = nil
		if err := n.carryOut(context.Background(), w, nil, nil); err != nil {
			return err
		}
		for _, m := range stage {
			if n.wantsPull(m) {
				life.pull = &m
			}
		}
		if s.w.chance(s.w.p.slow) {
			break // the disk was slow: the rest in the next step
		}
	}
	if err := s.apply(); err != nil {
		return err
	}
	n.publish()
	if err := life.storeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// newcomer reports whether a message may be of a member that this one does not know
// yet, and that its leader has handed over to. It is believed once that leader has
// not been heard of for an election time-out.
func (s *simNode) newcomer(m *raftpb.Message) bool {
	core := s.life.node.core
	_, known := core.members.members[ID(m.From)]
	return !known && m.Term > core.term
}

// apply hands some of what is committed to the store, as the applier's own
// goroutine would: behind the loop, in order.
func (s *simNode) apply() error {
	life := s.life
	for _, h := range life.node.applier.take() {
		life.todo = append(life.todo, pieces(h)...)
	}
	for len(life.todo) > 0 && !s.w.chance(s.w.p.slow) {
		h := life.todo[0]
		life.todo = life.todo[1:]
		if err := life.node.applier.apply(h); err != nil {
			return err
		}
		life.node.applier.finished(h)
		s.write()
		if err := s.w.applied(s); err != nil {
			return err
		}
	}
	return nil
}

// pieces splits what is to be applied into entries: the store may commit between
// any two.
func pieces(h handoff) (all []handoff) {
	if h.install.Metadata.Index != 0 {
		all = append(all, handoff{install: h.install})
	}
	for _, it := range h.items {
		all = append(all, handoff{items: []applyItem{it}})
	}
	return all
}

// stage pulls what a snapshot needs, from its sender or any other; the stream
// may end early, or bring something else.
func (s *simNode) stage() {
	m := *s.life.pull
	from := s.w.nodes[ID(m.From)]
	if s.w.dice(0.3) {
		from = s.w.any()
	}
	if from == nil || from.life == nil || from == s || !s.w.connected(from.id, s.id) {
		return
	}
	d, err := decodeSnapshot(m.Snapshot.Data)
	if err != nil {
		s.w.fatalf("a snapshot cannot be read: %v", err)
	}
	defer s.writes.set(s.writes.pass()) // it writes to history itself
	err = s.life.store.Stage(context.Background(), d.state, func(ctx context.Context, query string) (io.ReadCloser, error) {
		var b bytes.Buffer
		if err := from.life.node.sm.Serve(ctx, query, &b); err != nil {
			return nil, err
		}
		return io.NopCloser(s.w.spoil(&b)), nil
	})
	if err == nil {
		s.life.pull, s.life.node.pulling = nil, false
		s.life.node.core.staged(m)
	}
}

// spoil returns a stream that may break off or be damaged on its way.
func (w *simWorld) spoil(b *bytes.Buffer) io.Reader {
	switch {
	case b.Len() > 0 && w.chance(0.1):
		return io.MultiReader(bytes.NewReader(b.Bytes()[:w.r.IntN(b.Len())]), iotest.ErrReader(io.ErrUnexpectedEOF))
	case b.Len() > 0 && w.chance(0.1):
		b.Bytes()[w.r.IntN(b.Len())] ^= 1 << w.r.IntN(8)
	}
	return b
}

func (w *simWorld) logger(id ID) *slog.Logger {
	if w.log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return w.log.With("node", uint64(id))
}
