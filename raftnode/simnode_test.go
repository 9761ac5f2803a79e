package raftnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing/iotest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// simNode is a machine of a simulation: its disks outlive the processes on it.
type simNode struct {
	w     *simWorld
	id    ID   // of the machine, and of the member in worlds that begin with a cluster
	raft  ID   // of the member, zero until it has one
	joins bool // a cluster; else it forms one, unless it has one
	files *simFiles

	history, staging              *engine.MemEngine
	index                         *keyruns.MemFiles
	onHistory, onIndex, onStaging *simDice
	onScratch, onMerge            *simDice
	writes                        *simWrites // of the process
	clock                         *simClock

	life     *simLife // nil while no process runs
	wakeAt   int64    // step at which one starts again
	relapse  int64    // step at which the power goes
	frozen   int64    // step until which the process stands still
	phase    float64  // steps of its clock until the next tick
	gone     bool     // removed from the cluster, and stopped
	left     bool     // because it was removed, or its cluster has ended
	asleep   bool     // nobody starts it
	force    string   // the word to force a new cluster with
	beside   bool     // it has a copy of another machine, which is there too
	pulled   bool     // it may have records that do not count
	name     string   // of the member
	known    uint64   // level of the program
	lastSelf identity // when it took part last
}

// simLife is one process: the production node, store and DB, driven step by step.
type simLife struct {
	node      *Node
	store     *kvstore.Store
	index     *keyruns.Index
	bodies    *bodies.Store
	db        *kvstore.DB
	inbox     []raftpb.Message
	staged    bool         // it has pulled, and not installed since
	bodyStats bodies.Stats // when they were looked at last
	parcels   []simMessage
	pushing   map[ID]int       // batches of bodies on their way, by member
	arrived   []raftpb.Message // after they waited for bodies
	todo      []handoff        // handed off, not applied
	pull      *raftpb.Message  // the snapshot that is being pulled
	dead      bool

	compared kvstore.Revision // the store's heads up to there, with those of others

	refusal error          // a member does not take this one's messages
	asks    sync.WaitGroup // why

	bootstraps   bool       // it belongs to no cluster yet
	bootstrapped chan error // that it does, or why not; capacity 1

	ctx       context.Context // of what the process does beside its steps
	stopStore context.CancelFunc
	storeRuns sync.WaitGroup
	storeErr  atomic.Pointer[error] // why the store's Run ended
}

func (s *simNode) send(msgs []raftpb.Message) {
	if s.files.alive() != nil {
		return // the process does not know it yet
	}
	for _, m := range msgs {
		s.w.post(s, m)
	}
}

// simDialer is how a node asks another one to change the members.
type simDialer struct{ from *simNode }

// RoundTrip implements http.RoundTripper.
func (d simDialer) RoundTrip(r *http.Request) (*http.Response, error) {
	w := d.from.w
	w.turned(r.Context(), r.URL.String())
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
		res := answer.Result()
		if r.URL.Path == bodiesPath {
			res.Body = io.NopCloser(w.spoil(answer.Body))
		}
		return res, nil
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("nobody answers")}
}

func (s *simNode) stop() {}

// simLog is the log a DB proposes to, as server wires it.
type simLog struct {
	w    *simWorld
	node *Node
}

func (l simLog) ProposeMany(ctx context.Context, commands [][]byte, each func(i int, result any, err error)) {
	by := string(commands[0][:min(len(commands[0]), 64)])
	l.w.turned(ctx, by)
	commands = slices.Clone(commands)
	for i, c := range commands {
		l.gaveUp(ctx, c)
		commands[i] = l.later(c)
	}
	l.node.ProposeMany(ctx, commands, func(i int, result any, err error) { each(i, result, simStoreError(err)) })
	l.w.turned(ctx, by)
}

func (l simLog) ReadIndex(ctx context.Context) error {
	l.w.turned(ctx, "")
	asked := time.Now()
	err := l.node.ReadIndex(ctx)
	l.w.turned(ctx, "")
	if c, ok := ctx.Value(simClientKey{}).(*simClient); ok && c.number < 0 && err == nil { // of the process itself
		c.proved, c.caughtUp = asked, time.Now()
	}
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

	mu    sync.Mutex
	r     *rand.Rand
	worse float64 // how much oftener they break now
}

func newSimDice(w *simWorld) *simDice {
	return &simDice{w: w, r: rand.New(rand.NewPCG(w.r.Uint64(), 3))}
}

// breaks decides about one durable write, that breaks so many times as often as others.
func (d *simDice) breaks(often float64) (broken, after bool) {
	if d.w.calm.Load() {
		return false, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64() < often*d.w.p.diskFail+d.worse, d.r.IntN(2) == 0
}

// worsen makes writes break oftener until the returned func is called.
func (d *simDice) worsen(by float64) (end func()) {
	set := func(by float64) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.worse = by
	}
	set(by)
	return func() { set(0) }
}

// hook makes commits to an engine fail, now and then.
func (d *simDice) hook(int) engine.FailPoint {
	switch broken, after := d.breaks(1); {
	case !broken:
		return engine.FailNever
	case after:
		return engine.FailAfter
	}
	return engine.FailBefore
}

func (s *simNode) storeConfig(index *keyruns.Index, kept *bodies.Store) kvstore.StoreConfig {
	return kvstore.StoreConfig{
		History: s.history, Index: index, Bodies: kept,
		OpenStaging: func() (engine.Engine, error) {
			s.staging = s.staging.Reopen()
			s.staging.OnUpdate(s.onStaging.hook)
			return s.staging, nil
		},
		RemoveStaging: func() error {
			s.staging = engine.NewMemEngine()
			return nil
		},
		CommitBytes: s.w.p.commitBytes, CommitInterval: s.w.p.commitEvery,
		OpenScratch:   func() (kvstore.Scratch, error) { return &simScratch{dice: s.onScratch}, nil },
		MemtableBytes: s.w.p.overlayBytes, GenerationBytes: s.w.p.overlayBytes / 8, CheckpointRevisions: s.w.p.checkpoint,
	}
}

// boot starts a process on what the disks hold.
func (s *simNode) boot() (err error) {
	defer s.files.running()()
	s.history, s.index = s.history.Reopen(), s.index.Reopen(0)
	s.writes = &simWrites{w: s.w, passing: true}
	kept, err := s.openBodies()
	if err != nil {
		return err
	}
	s.history.OnUpdate(s.writes.hook(simHistory, s.onHistory))
	self := simMember(s.id)
	cfg := Config{Name: s.name, ForceNewCluster: s.force, PeerURL: self.PeerURL, ClientURL: self.ClientURL, Level: s.known, InitialCluster: s.w.initial(), Dir: s.files.dir, SnapshotLogBytes: s.w.p.snapshotBytes, KeepLogBytes: s.w.p.snapshotBytes / 2, Bodies: kept, Logger: s.w.logger(s.id), sync: s.files.sync, bodyTicks: s.w.bodies.ticks}
	cfg.setDefaults()
	n := &Node{cfg: cfg, logger: cfg.Logger,
		client: &http.Client{Transport: simDialer{s}}, changeClient: &http.Client{Transport: simDialer{s}}, inbox: newInbox(), dropped: newDroppedMessages(cfg.Logger), budget: newBodyBudget(cfg.QueueBytes), bodyIdle: time.Hour, waiters: newWaiters(s.w.r.Uint64() | 1), progress: &progress{}, stopped: make(chan struct{}), pulls: make(chan pullResult, 1), endings: make(chan *Forcing, 1), saveSelf: func(id identity) error { return id.save(cfg.Dir, cfg.sync) }, transport: s, pushes: newPushes(nil, cfg.Logger)}
	s.files.node = n
	index, err := keyruns.Open(keyruns.Config{Files: s.index, Logger: cfg.Logger, MaxRuns: 3, Factor: 2, MergeRate: math.MaxInt64})
	if err != nil {
		return errors.Join(err, kept.Close())
	}
	s.index.OnCall(s.writes.indexHook(s.onIndex, s.onMerge))
	store, err := kvstore.OpenStore(s.storeConfig(index, kept))
	if err != nil {
		return errors.Join(err, index.Close(), kept.Close())
	}
	life := &simLife{node: n, store: store, index: index, bodies: kept, pushing: map[ID]int{}, bootstrapped: make(chan error, 1)}
	life.ctx, life.stopStore = context.WithCancel(context.Background())
	found := store.Stats()
	err = s.open(n, simStore{store, s, n.cfg.Level})
	if err == nil && n.self.ClusterID != 0 {
		err = s.takePart(life)
	}
	if now := store.Stats(); isLater(err) && (now.AppliedIndex != found.AppliedIndex || now.Digest != found.Digest) {
		s.w.fatalf("n%d refuses to start, and has changed its state", s.id)
	}
	if err != nil {
		life.stopStore()
		return errors.Join(err, store.Close(), index.Close(), kept.Close())
	}
	if s.life = life; n.self.ClusterID == 0 {
		s.bootstrap(life.ctx, life)
	}
	return nil
}

// open is what Open does.
func (s *simNode) open(n *Node, sm StateMachine) (err error) {
	if n.self, err = openIdentity(&n.cfg, sm); err != nil {
		return err
	}
	n.sm, n.applier = sm, newApplier(sm, n.waiters, n.progress)
	s.raft = n.self.ID
	s.w.levels.ran[s.raft] = s.w.levels.ran[s.raft] || s.known >= simLater
	id := n.self
	n.identity.Store(&id)
	n.removed.Store(&map[ID]bool{})
	n.forced.Store(&id.Forced)
	n.status.Store(&Status{ID: id.ID, Name: id.Name, ClusterID: id.ClusterID, Role: RoleFollower, Known: n.cfg.Level})
	if f := id.Ended; f != nil && s.force == "" {
		return n.endedError(f)
	}
	return s.files.alive()
}

// die ends what the process does to its disks: before the store hears that it shall
// end, and commits.
func (s *simNode) die() {
	s.history.Crash()
	s.index.Crash()
	s.staging.Crash()
}

// crash ends the process. Whoever waits for it learns that its answer is lost.
func (s *simNode) crash(power bool) {
	if s.files.died == nil {
		s.files.ends()
	}
	s.files.bootstraps = false
	if life := s.life; life != nil { // else it has died at its start
		s.life = nil
		life.dead = true
		life.node.refuseAll()
		life.node.endArrivals()
		close(life.node.stopped)
		s.writes.pass() // what was on its way is lost
		life.stopStore()
		life.storeRuns.Wait()
		_ = life.store.Close()
		_ = life.index.Close()
		_ = life.bodies.Close()
	}
	s.files.crash(s.w.r, power)
	s.wakeAt, s.frozen = s.w.step+s.w.r.Int64N(300), 0
}

// run lets the process do what it can in one step; an error is its end.
func (s *simNode) run() error {
	defer s.files.running()()
	life := s.life
	n := life.node
	if life.bootstraps {
		return s.finishBootstrap()
	}
	s.write()
	if s.phase -= s.clock.rate; s.phase <= 0 {
		s.phase += simTick
		n.core.tick()
		s.dial()
		if n.core.now%checkpointTicks == 0 {
			if err := n.checkpoint(); err != nil {
				return err
			}
		}
	}
	if err := s.files.alive(); err != nil {
		return err
	}
	if err := s.unpack(); err != nil {
		return err
	}
	s.push()
	s.complete()
	for _, m := range life.inbox {
		if err := n.core.checkMessage(&m); err != nil && s.w.p.lies == 0 && !s.w.copies(s) && !n.core.members.removed[ID(m.From)] && !s.behind(m.From) {
			s.w.fatalf("n%d takes a message of n%d for a lie: %v: %v", s.id, m.From, err, m)
		}
		idle := !n.core.rn.HasReady()
		n.core.step(m)
		if n.core.members.removed[ID(m.From)] && idle && n.core.rn.HasReady() {
			s.w.fatalf("n%d takes a %v of n%d, which was removed", s.id, m.Type, m.From)
		}
	}
	life.inbox = nil
	if err := s.refused(); err != nil {
		return err
	}
	n.deliver(n.inbox.take())
	if life.pull != nil && s.w.dice(0.2) {
		if err := s.stage(); err != nil {
			return err
		}
	}
	for w, ok := n.core.next(); ok; w, ok = n.core.next() {
		stage := w.stage
		w.stage = nil
		s.w.proposed(s, w.entries)
		s.w.saves(s, w.entries)
		if err := n.carryOut(context.Background(), w, nil, nil); err != nil {
			return err
		}
		if err := s.files.alive(); err != nil {
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
	if err := s.reclaimed(); err != nil {
		return err
	}
	n.publish()
	s.w.rises(s)
	if err := life.storeErr.Load(); err != nil {
		return *err
	}
	return nil
}

// behind reports whether this node does not know yet, or after a restart not again, that
// somebody is a member. It does not listen to such a member, which leadership may have
// been handed over to, until it has not heard of the leader it knows for an election
// time-out.
func (s *simNode) behind(from uint64) bool {
	_, known := s.life.node.core.members.members[ID(from)]
	return !known && s.w.joined[ID(from)]
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
		if err := s.w.applied(s, life); err != nil {
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
func (s *simNode) stage() error {
	m := *s.life.pull
	if err := s.life.node.checkSnapshotLevel(context.Background(), m.Snapshot); err != nil {
		s.life.pull, s.life.node.pulling = nil, false
		if isLater(err) {
			return err
		}
		return nil
	}
	from := s.w.member(ID(m.From))
	if s.w.dice(0.3) {
		from = s.w.any()
	}
	if from == nil || from.takesPart() == nil || from == s || from.life.node.self.ClusterID != s.life.node.self.ClusterID || !s.w.connected(from.id, s.id) {
		return nil
	}
	d, err := decodeSnapshot(m.Snapshot.Data)
	if err != nil {
		s.w.fatalf("a snapshot cannot be read: %v", err)
	}
	defer s.writes.set(s.writes.pass()) // it writes to history itself
	err = s.life.node.sm.Stage(context.Background(), d.state, func(ctx context.Context, query string) (io.ReadCloser, error) {
		var b bytes.Buffer
		if err := from.life.node.sm.Serve(ctx, query, &b); err != nil {
			return nil, err
		}
		return io.NopCloser(s.w.spoil(&b)), nil
	}, func(ctx context.Context, refs []bodies.Ref, each func(bodies.Body) error) error {
		s.w.bodies.sum.pulled += len(refs)
		return s.fetch(from)(ctx, refs, each)
	})
	if err == nil {
		s.life.pull, s.life.node.pulling = nil, false
		s.life.node.core.staged(m)
	}
	return nil
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
