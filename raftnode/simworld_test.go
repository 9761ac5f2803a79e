package raftnode

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Simulated time. A step is 20 ms, a tick of raft 100 ms.
const (
	simStep = 20 * time.Millisecond
	simTick = 5 // steps
)

// simParams are the dice of one world: how often what goes wrong. Each world
// throws its own, most of them with some faults left out, because a fault that
// always happens hides what only shows without it.
type simParams struct {
	size          int
	steps         int64
	snapshotBytes int
	commitBytes   int64         // to history
	commitEvery   time.Duration // to history
	overlayBytes  int64
	checkpoint    kvstore.Revision // every so many revisions
	keys          int              // clients fight over so many at a time
	keyBytes      int              // of a key, at least
	burst         int              // keys of one PutMany, at most
	puts, gets    float64
	large         float64 // of puts, those of several chunks
	drop, repeat  float64 // of messages
	delay         int64   // steps at most
	cut, heal     float64 // of the network, a step
	crash, power  float64 // of a node, a step; power: of crashes, those that lose what was not synced
	blackout      float64 // all nodes at once, a step
	relapse       float64 // of starts, those after which the power soon goes
	freeze        float64 // of a node, a step
	diskFail      float64 // of a durable write
	slow          float64 // of work, what waits for the next step
	segmentBytes  int64   // of the log
	shuffled      bool    // pages are written in any order
	slowWrite     float64 // of the store's own writes, what waits for the next entry or step
	change        float64 // of members or leader, a step
	lost          float64 // of answers to clients
	rot           float64 // of one bit on one disk, a step; once a world
	jump          float64 // of the clock of a machine, a step
	loseIndex     float64 // of starts, those whose index is gone
	forms         bool    // the cluster is yet to be formed
	force         float64 // of a new cluster, a step; once a world
	copy          float64 // of starts, those before which the machine's disks are copied
	rejoin        float64 // of machines that were removed, those that are wiped and join again, a step
	lies          float64 // of the liar, a step
}

func throwParams(r *rand.Rand) simParams {
	some := func(most float64) float64 {
		if r.IntN(2) == 0 {
			return 0
		}
		return most * r.Float64()
	}
	p := simParams{
		size: []int{1, 2, 3, 3, 3, 5}[r.IntN(6)], steps: 400 + r.Int64N(800), snapshotBytes: 1000 << r.IntN(6), keys: 1 + r.IntN(6),
		commitBytes: 200 << r.IntN(8), commitEvery: time.Duration(20<<r.IntN(8)) * time.Millisecond, overlayBytes: 500 << r.IntN(7), checkpoint: 1 << r.IntN(8),
		puts: 0.05 + 0.4*r.Float64(), gets: 0.05 + 0.4*r.Float64(),
		drop: some(0.2), repeat: some(0.1), delay: 1 + r.Int64N(6), cut: some(0.02), heal: 0.02,
		crash: some(0.01), power: r.Float64(), blackout: some(0.003), freeze: some(0.01), diskFail: some(0.01),
		slow: some(0.6), change: some(0.03), lost: some(0.1), rot: some(0.002),
		slowWrite: some(0.95), jump: some(0.02), loseIndex: some(0.8), burst: 5, segmentBytes: 4096 << r.IntN(4), relapse: some(0.7), shuffled: r.IntN(4) > 0,
	}
	switch r.IntN(12) {
	case 0:
		p.large = 0.05
	case 1, 2: // many keys: checkpoints, and an index of many blocks
		p.keys, p.burst, p.keyBytes = 50+r.IntN(500), 20+r.IntN(100), 20<<r.IntN(4)
	}
	if r.IntN(6) == 0 { // hardly anything is written, and so hardly anything synced
		p.puts, p.burst = 0.01, 3
	}
	if p.size > 1 && r.IntN(5) == 0 {
		p.force, p.copy, p.rot = 0.01, 0.5, 0
	}
	p.forms, p.rejoin = r.IntN(4) == 0, some(0.02)
	return p
}

// simWorld is one simulated cluster, its machines, network and clients, under a
// scheduler that takes every decision from one seed. It runs in a bubble of
// testing/synctest, so that timers of the production code run on simulated time
// and the scheduler knows when all other goroutines wait: exactly one of them
// runs at a time.
type simWorld struct {
	root    string // of all files
	r       *rand.Rand
	p       simParams
	entropy io.Reader
	liar    *rand.Rand // its dice
	merges  *rand.Rand // those of merges of indexes
	scripts *simScripts
	levels  *simLevels
	bodies  *simBodies

	unwanted map[ID]bool  // members that somebody wanted removed
	log      *slog.Logger // nil: none
	trace    hash.Hash

	step  int64
	clock int64       // of clients; grows with every reading
	calm  atomic.Bool // no new faults
	over  bool        // clients go home
	nodes map[ID]*simNode
	wire  []simMessage
	sent  uint64
	cuts  map[[2]ID]bool

	histories map[ID]historyID           // by cluster
	digests   map[simMark]kvstore.Digest // heads, as first applied anywhere
	created   map[string]kvstore.Meta    // acknowledged, by key
	uploads   map[simUpload]*simProgress // of large values, as far as anybody has applied
	newest    uint64                     // revision acknowledged to anybody
	told      map[ID]uint64              // the same, by cluster
	ops       []simOp
	force     *simForce       // nil until a new cluster is forced
	copied    map[ID]*simCopy // of machines
	open      int             // clients at work
	behind    atomic.Int64    // goroutines that act for machines, and wait for their turns
	places    map[ID][]string // client URLs under which a member may be known
	moves     int             // of members to new client URLs
	client    int
	actors    int         // of processes
	joined    map[ID]bool // who was a member for anybody who sent something, to it or of its own
	change    bool        // a change of members is under way
	failed    bool        // an fsync has
	rotten    *simNode    // whose disk has lied, or that was marked after an fsync that failed
	verifies  bool        // and whether Verify has to see it
	failure   string

	own []byte // names the world's goroutine

	mu    sync.Mutex
	turns []simTurn
}

// simMessage is a message on its way.
type simMessage struct {
	at      int64
	number  uint64
	from    ID // machine
	to      ID // member
	raft    ID // member that sends it
	cluster ID // of it
	lie     bool
	bytes   []byte
	parcel  *simParcel // in place of bytes
}

// simTurn is a goroutine of a client that waits until the scheduler lets it go on.
type simTurn struct {
	client int
	by     string // tells apart goroutines of one client
	goOn   chan struct{}
}

// newSimWorld makes the world of a seed, with its files in a directory.
func newSimWorld(seed uint64, root string) *simWorld {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &simWorld{
		root: root, r: r, p: throwParams(r), liar: rand.New(rand.NewPCG(seed, 4)), merges: rand.New(rand.NewPCG(seed, 9)), trace: sha256.New(), nodes: map[ID]*simNode{}, cuts: map[[2]ID]bool{},
		told: map[ID]uint64{}, histories: map[ID]historyID{}, copied: map[ID]*simCopy{}, digests: map[simMark]kvstore.Digest{}, created: map[string]kvstore.Meta{}, unwanted: map[ID]bool{}, uploads: map[simUpload]*simProgress{}, places: map[ID][]string{}, joined: map[ID]bool{},
	}
	if w.liar.IntN(3) == 0 {
		w.p.lies = 0.3 * w.liar.Float64()
	}
	w.scripts, w.levels, w.bodies = newSimScripts(seed, &w.p), newSimLevels(seed), newSimBodies(seed)
	var key [32]byte
	copy(key[:], fmt.Sprint(seed))
	w.entropy = rand.NewChaCha8(key)
	return w
}

// dice decides about what happens with or without faults, chance about faults.
func (w *simWorld) dice(p float64) bool { return w.r.Float64() < p }

func (w *simWorld) chance(p float64) bool { return !w.calm.Load() && p > 0 && w.r.Float64() < p }

// fatalf notes the first thing that must not be.
func (w *simWorld) fatalf(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("step %d: ", w.step) + fmt.Sprintf(format, args...)
	}
}

var runName = regexp.MustCompile(`[0-9]{12}\.run`)

// note makes what happened part of the trace, by which two runs are compared.
func (w *simWorld) note(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), w.root, "")
	text = runName.ReplaceAllString(text, "a run") // a flush and a merge that begin together take their numbers in any order
	fmt.Fprintln(w.trace, text)
	if w.log != nil {
		w.log.Info(text, "step", w.step)
	}
}

// found makes the machines of a new cluster.
func (w *simWorld) found() {
	founders := testFounders(w.p.size)
	for _, f := range founders {
		if w.p.forms {
			w.machine(f.ID, nil)
		} else {
			w.machine(f.ID, &identity{ClusterID: historyOf(founders).cluster(), Founders: founders})
		}
	}
}

// initial is what every founder is told.
func (w *simWorld) initial() (peers []Peer) {
	for id := ID(1); id <= ID(w.p.size); id++ {
		peers = append(peers, Peer{simMember(id).Name, simMember(id).PeerURL})
	}
	return peers
}

func simMember(id ID) Member {
	return Member{ID: id, Name: fmt.Sprintf("n%d", id), PeerURL: fmt.Sprintf("http://h%d:1", id), ClientURL: fmt.Sprintf("http://h%d:2", id)}
}

// machine adds one that has nothing but an identity, or nothing at all.
func (w *simWorld) machine(id ID, self *identity) *simNode {
	s := &simNode{
		w: w, id: id, history: engine.NewMemEngine(), index: keyruns.NewMemFiles(), staging: engine.NewMemEngine(),
		onHistory: newSimDice(w), onIndex: newSimDice(w), onStaging: newSimDice(w), onScratch: newSimDice(w), onMerge: &simDice{w: w, r: rand.New(rand.NewPCG(w.merges.Uint64(), 3))},
		clock: newSimClock(w.r),
	}
	s.name, s.known = simMember(id).Name, w.levels.program()
	s.files = newSimFiles(s)
	w.nodes[id] = s
	if self == nil {
		return s
	}
	s.raft = id
	self.Format, self.Name, self.ID = identityFormat, simMember(id).Name, id
	self.Birth = testFounders(int(id))[id-1].Birth
	err := self.save(s.files.dir, func(path string) error {
		s.files.persist(path)
		return nil
	})
	if err != nil {
		w.fatalf("%v", err)
	}
	return s
}

func (w *simWorld) ids() []ID {
	var ids []ID
	for id, s := range w.nodes {
		if !s.gone {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (w *simWorld) any() *simNode {
	ids := w.ids()
	return w.nodes[ids[w.r.IntN(len(ids))]]
}

func (w *simWorld) connected(from, to ID) bool {
	if f := w.force; f != nil && f.apart && (from == f.survivor.id) != (to == f.survivor.id) {
		return false
	}
	return !w.cuts[[2]ID{from, to}] && !w.scripts.away.cuts(w, from, to)
}

// post puts a message on the wire, as bytes: nothing is shared.
func (w *simWorld) post(s *simNode, m raftpb.Message) {
	raw, err := m.Marshal()
	if err != nil {
		w.fatalf("a message of n%d cannot be written: %v", s.id, err)
		return
	}
	w.trace.Write(raw)
	for _, id := range []ID{s.life.node.self.ID, ID(m.To)} {
		if _, member := s.life.node.core.members.members[id]; member {
			w.joined[id] = true
		}
	}
	for again := true; again; again = w.chance(w.p.repeat) {
		if w.chance(w.p.drop) {
			if s.life != nil && w.chance(0.3) {
				s.life.node.inbox.addLost(m.To)
			}
			continue
		}
		w.sent++
		delay := int64(1)
		if !w.calm.Load() {
			delay += w.r.Int64N(w.p.delay)
		}
		w.wire = append(w.wire, simMessage{at: w.step + delay, number: w.sent, from: s.id, to: ID(m.To), raft: s.raft, cluster: s.life.node.self.ClusterID, bytes: raw})
	}
}

// lie lets the liar send something to anybody, in the name of any member or of
// none. It knows everything. Each is something that no honest member sends, because
// a forged message of another kind, a vote perhaps, may undo what raft promises.
func (w *simWorld) lie() {
	ids := w.ids()
	to := w.nodes[ids[w.liar.IntN(len(ids))]]
	from := uint64(77)
	if i := w.liar.IntN(len(ids) + 1); i < len(ids) {
		from = uint64(w.nodes[ids[i]].raft)
	}
	if to.takesPart() == nil || from == 0 || from == uint64(to.raft) || to.life.node.core.savedTerm == 0 {
		return // who knows nothing yet believes more
	}
	lies := to.life.node.core.target(from).lies()
	for _, c := range []struct {
		what string
		data []byte
	}{{"a command of a far level", []byte{99, 1, 0, 0}}, {"a command of no kind", []byte{1, 250, 0, 0}}, {"the later command, with nothing in it", simLaterCommand}, {"no command", nil}} {
		lies[c.what] = raftpb.Message{Type: raftpb.MsgProp, From: from, To: uint64(to.raft), Entries: []raftpb.Entry{{Data: encodeBatch([]command{{origin: 1, seq: w.liar.Uint64(), data: c.data}})}}}
	}
	what := slices.Sorted(maps.Keys(lies))[w.liar.IntN(len(lies))]
	m := lies[what]
	raw, err := m.Marshal()
	if err != nil {
		w.fatalf("a lie cannot be written: %v", err)
		return
	}
	w.note("somebody sends n%d, as n%d: %s", to.id, from, what)
	for again := true; again; again = w.liar.IntN(4) == 0 {
		w.sent++
		w.wire = append(w.wire, simMessage{at: w.step + w.liar.Int64N(3), number: w.sent, from: to.id, to: to.raft, lie: true, bytes: raw})
	}
}

// deliver brings what is due to its receivers, as far as they can be reached.
func (w *simWorld) deliver() {
	slices.SortFunc(w.wire, func(a, b simMessage) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.number, b.number)) })
	for len(w.wire) > 0 && w.wire[0].at <= w.step {
		x := w.wire[0]
		w.wire = w.wire[1:]
		to := w.member(x.to)
		if to == nil || to.takesPart() == nil || !w.connected(x.from, to.id) || !w.takes(to, &x) {
			continue
		}
		if x.parcel != nil {
			to.life.parcels = append(to.life.parcels, x)
			continue
		}
		var m raftpb.Message
		if err := m.Unmarshal(x.bytes); err != nil {
			w.fatalf("a message cannot be read: %v", err)
			return
		}
		to.life.inbox = append(to.life.inbox, m)
	}
}

// pass moves the bubble's clock, which takes no time: it is a fake one, and goes
// on when everybody waits. Timers of production code that are due by then run
// first.
func (w *simWorld) pass(d time.Duration) {
	<-time.After(d)
	w.rest()
}

// trouble throws the dice of what goes wrong in this step.
func (w *simWorld) trouble() {
	if w.calm.Load() {
		clear(w.cuts)
	} else if w.chance(w.p.cut) {
		w.cutNetwork()
	} else if w.chance(w.p.heal) {
		clear(w.cuts)
	}
	if w.alone() {
		clear(w.cuts)
		return
	}
	if w.rotten == nil && !w.change && w.chance(w.p.rot) {
		w.rot()
	}
	blackout := w.chance(w.p.blackout)
	for _, id := range w.ids() {
		s := w.nodes[id]
		if s.life == nil {
			continue
		}
		relapse := w.step == s.relapse && !w.calm.Load()
		if blackout || relapse || w.chance(w.p.crash) {
			power := blackout || relapse || w.chance(w.p.power)
			w.note("n%d crashes, power %v", id, power)
			s.crash(power)
			w.rest()
		} else if w.chance(w.p.freeze) {
			s.frozen = w.step + w.r.Int64N(200)
		}
		if w.chance(w.p.jump) {
			s.clock.jump(w.r)
			w.note("the clock of n%d jumps to %v", id, s.clock.now())
		}
	}
}

// rot flips a bit on the disk of a machine that the cluster can do without.
func (w *simWorld) rot() {
	leader, s := w.leader(), w.any()
	if leader == nil || s.life == nil || len(leader.life.node.core.members.conf.Voters) < 3 || leader.life.node.core.changeAhead() {
		return
	}
	if s.pulled {
		return // nobody would miss a record that does not count
	}
	defer s.writes.set(s.writes.pass())
	bucket := []engine.Bucket{engine.BucketRecords, engine.BucketChunks}[w.r.IntN(2)]
	if s.history.Damage(bucket, w.r.IntN) {
		w.note("the disk of n%d has changed a bit of its %v", s.id, bucket)
		w.rotten, w.verifies = s, bucket == engine.BucketRecords // chunks are verified when they are read
	}
}

// expected reports whether an error is one that the simulation injected, or that of a
// start for which nobody else is there.
func (w *simWorld) expected(s *simNode, err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, errSimDisk) || errors.Is(err, engine.ErrInjected) || errors.Is(err, engine.ErrCrashed) || errors.Is(err, keyruns.ErrCrashed) || w.ruined(s, err) || w.copies(s)
}

// ruined reports whether an error says that a machine's disk has lied, rightly.
func (w *simWorld) ruined(s *simNode, err error) bool {
	var corrupt *kvstore.CorruptError
	return s == w.rotten && errors.As(err, &corrupt)
}

// changeAhead reports whether the log has a change of members that is yet to count.
func (c *core) changeAhead() bool {
	from, last := max(c.log.first, c.membersAt+1), c.logEnd
	if from > last {
		return false
	}
	entries, err := c.log.Entries(from, last+1, math.MaxUint64)
	return err != nil || slices.ContainsFunc(entries, func(e raftpb.Entry) bool { return e.Type == raftpb.EntryConfChange })
}

// mayFail decides whether an fsync of a machine fails, once in a world, and where the
// cluster can do without it.
func (w *simWorld) mayFail(s *simNode) bool {
	leader := w.leader()
	if w.failed || w.p.force > 0 || w.rotten != nil || w.change || s.files.bootstraps || leader == nil || w.r.IntN(4) > 0 {
		return false
	}
	core := leader.life.node.core
	if len(core.members.conf.Voters) < 3 || core.changeAhead() {
		return false
	}
	w.failed = true
	w.note("an fsync of n%d fails", s.id)
	return true
}

// marked reports whether a machine ends because of an fsync that failed, and leaves a
// mark, so that it is replaced.
func (w *simWorld) marked(s *simNode, err error) bool {
	if !s.files.failed || !errors.Is(err, writefault.Err) {
		return false
	}
	w.rotten = s
	return true
}

// cutNetwork cuts a member off, in one or both directions, or the cluster in
// halves, with or without a member that both can reach.
func (w *simWorld) cutNetwork() {
	clear(w.cuts)
	ids := w.ids()
	one := ids[w.r.IntN(len(ids))]
	kind := w.r.IntN(5)
	side := map[ID]bool{}
	for _, id := range ids {
		side[id] = w.r.IntN(2) == 0
	}
	for _, a := range ids {
		for _, b := range ids {
			switch kind {
			case 0:
				w.cuts[[2]ID{a, b}] = a == one || b == one
			case 1:
				w.cuts[[2]ID{a, b}] = a == one
			case 2:
				w.cuts[[2]ID{a, b}] = b == one
			case 3:
				w.cuts[[2]ID{a, b}] = side[a] != side[b]
			case 4:
				w.cuts[[2]ID{a, b}] = side[a] != side[b] && a != one && b != one
			}
		}
	}
}

// run lives through the world and returns what must not have been, "" if all
// was well.
func (w *simWorld) run() string {
	w.own = goroutineName()
	wal.SegmentSizeBytes = w.p.segmentBytes
	w.found()
	for w.step < w.p.steps && w.failure == "" {
		w.oneStep()
	}
	w.calm.Store(true)
	for _, id := range w.ids() {
		if s := w.nodes[id]; s.life != nil {
			s.writes.pass()
		}
	}
	w.settle()
	if w.failure == "" {
		w.verify()
	}
	if w.failure == "" {
		w.verifyRoom()
	}
	w.end()
	return w.failure
}

func (w *simWorld) oneStep() {
	w.step++
	w.pass(simStep)
	w.trouble()
	if w.chance(w.p.puts) && !w.hushed() {
		w.begin(w.putSome)
	}
	if w.chance(w.p.gets) {
		w.begin(w.get)
	}
	if w.chance(0.01) {
		w.begin(w.look)
	}
	if w.chance(w.p.change) && !w.change {
		w.change = true
		w.begin(w.reform)
	}
	w.forcing()
	w.forgetting()
	w.slowUploads()
	w.upgrade()
	if w.chance(w.p.rejoin) {
		w.rejoin()
	}
	if w.liar.Float64() < w.p.lies && !w.calm.Load() {
		w.lie()
	}
	w.deliver()
	ids := w.ids()
	w.r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
	for _, id := range ids {
		w.turn(w.nodes[id])
		w.rest()
	}
}

// turn gives one machine its step.
func (w *simWorld) turn(s *simNode) {
	switch life := s.life; {
	case life == nil:
		if s.asleep || w.step < s.wakeAt && !w.calm.Load() {
			return
		}
		if w.force == nil && s.lastSelf.ClusterID != 0 && w.chance(w.p.copy) {
			w.copy(s)
		}
		if w.note("n%d starts", s.id); w.chance(w.p.loseIndex) {
			w.note("the index of n%d is gone", s.id)
			s.index = keyruns.NewMemFiles()
			defer s.onIndex.worsen(0.2)() // while it is built
		}
		w.install(s)
		switch err := guarded(s.boot); {
		case err != nil && w.refusesForce(s, err), err != nil && w.ended(s, err), err != nil && w.tooOld(s, err):
			s.crash(w.chance(w.p.power))
		case err != nil:
			if !w.expected(s, err) {
				w.fatalf("n%d does not start again: %v", s.id, err)
			}
			s.gone = w.ruined(s, err) || w.copies(s) || w.marked(s, err)
			s.crash(w.chance(w.p.power) && !w.forgets(s))
			s.wakeAt = w.step + 10
		case w.chance(w.p.relapse):
			s.relapse = w.step + 1 + w.r.Int64N(60)
		}
	case s.frozen > w.step && !w.calm.Load():
	default:
		if err := guarded(s.run); err != nil {
			w.note("n%d stops: %v", s.id, err)
			ended := w.ended(s, err) || w.tooOld(s, err)
			refused := !ended && w.refusedRightly(s, err)
			if !w.expected(s, err) && !refused && !ended {
				w.fatalf("n%d: %v", s.id, err)
			}
			if !ended {
				s.gone, s.left = w.ruined(s, err) || w.copies(s) || w.marked(s, err) || refused, refused
			}
			if s.files.died == nil && w.dice(0.5) { // who died in an fsync does not come to give the answers that followed it
				w.rest() // answers that were ready have left
			}
			s.crash(w.chance(w.p.power) && !w.forgets(s))
		} else if n := life.node; n.released != nil && w.dice(0.3) && n.mayLeave(context.Background()) {
			w.note("n%d leaves", s.id)
			s.crash(false)
			s.gone, s.left = true, true
		}
	}
}

// guarded runs a machine's start or step. A panic is an error too, be it what raft
// finds inconsistent.
func guarded(do func() error) (err error) {
	defer func() {
		switch p := recover().(type) {
		case nil:
		case raftPanic:
			err = fmt.Errorf("raft found its log inconsistent: %s", string(p))
		default:
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return do()
}

// quiet waits until all other goroutines wait. On any but the world's it does nothing:
// such a one runs while the world waits so, and no other one does. A flag that says
// whether the world waits would not do: whom the world wakes may look at it first.
func (w *simWorld) quiet() {
	if bytes.Equal(goroutineName(), w.own) {
		synctest.Wait()
	}
}

// goroutineName returns what tells the goroutine that calls it from all others.
func goroutineName() []byte {
	b := make([]byte, 64)
	b = b[:runtime.Stack(b, false)] // goroutine 7 [running]: ...
	name, _, _ := bytes.Cut(b, []byte(" ["))
	return name
}

// rest lets clients go on, one at a time, until all of them wait.
func (w *simWorld) rest() {
	for {
		w.quiet()
		w.mu.Lock()
		turns := w.turns
		w.turns = nil
		w.mu.Unlock()
		if len(turns) == 0 {
			return
		}
		slices.SortFunc(turns, func(a, b simTurn) int { return cmp.Or(cmp.Compare(a.client, b.client), cmp.Compare(a.by, b.by)) })
		for _, t := range turns {
			close(t.goOn)
			w.quiet()
		}
	}
}

// await makes a client's goroutine wait for its turn.
func (w *simWorld) await(client int, by string) {
	t := simTurn{client, by, make(chan struct{})}
	w.mu.Lock()
	w.turns = append(w.turns, t)
	w.mu.Unlock()
	<-t.goOn
}

// applied compares a store with what others had at the same revisions: at each that it has
// reached since it was compared last, and at the one where it is.
func (w *simWorld) applied(s *simNode, life *simLife) error {
	st, cluster := life.store.Stats(), life.node.self.ClusterID
	if w.lost(cluster) && w.force.copied {
		return nil
	}
	for life.compared++; life.compared < st.Revision && s != w.rotten; life.compared++ {
		head, err := life.store.DigestAt(life.compared)
		if err != nil {
			return err
		}
		w.compare(s, simMark{cluster, life.compared}, head)
	}
	life.compared = st.Revision
	w.compare(s, simMark{cluster, st.Revision}, st.Digest)
	return nil
}

// compare judges the head that a machine has at a revision.
func (w *simWorld) compare(s *simNode, at simMark, head kvstore.Digest) {
	if known, ok := w.digests[at]; !ok {
		w.digests[at] = head
	} else if known != head {
		w.fatalf("n%d has another history at revision %d: its head is %s, and elsewhere %s", s.id, at.rev, head, known)
	}
}

// leader returns the one of the newest term, nil if there is none.
func (w *simWorld) leader() *simNode {
	var leader *simNode
	for _, id := range w.ids() {
		s := w.nodes[id]
		if s.takesPart() != nil && s.life.node.core.isLeader() && !(w.lost(s.life.node.self.ClusterID) && w.force.new != 0) && !s.beside && (leader == nil || s.life.node.core.term > leader.life.node.core.term) {
			leader = s
		}
	}
	return leader
}

// settleSteps bound how long a cluster without faults may take to agree, or until it
// takes in the next machine that joins: a minute.
const settleSteps = 3000

// settle waits until nothing goes wrong any more and all members have the same.
func (w *simWorld) settle() {
	joining := w.joining()
	for left := settleSteps; left > 0; left-- {
		if w.failure != "" || w.settled() {
			return
		}
		w.oneStep()
		if now := w.joining(); now < joining {
			joining, left = now, settleSteps
		}
	}
	w.fatalf("a minute without faults, and not settled: %d clients wait, %d machines join; %s", w.open, w.joining(), w.describe())
}

// joining counts the machines that know no cluster yet.
func (w *simWorld) joining() (n int) {
	for _, s := range w.nodes {
		if s.life != nil && s.life.bootstraps {
			n++
		}
	}
	return n
}

func (w *simWorld) settled() bool {
	if w.force != nil && !w.force.over {
		return false // the survivor is yet to be looked at
	}
	leader := w.leader()
	if leader == nil || w.open > 0 || !w.endsAll() {
		return false
	}
	core := leader.life.node.core
	if len(core.changes) > 0 || core.commit != core.savedIndex { // a new leader commits only what is of its term
		return false
	}
	if w.joining() > 0 {
		return false
	}
	for id := range core.members.members {
		s := w.member(id)
		if s != nil && s == w.rotten {
			continue
		}
		if s == nil || s.takesPart() == nil || s.life.node.core.commit != core.commit || s.life.node.progress.index() != core.commit {
			return false
		}
	}
	return w.levels.risen(w, core) && leader.life.store.Stats().OpenUploads == 0 // their clients have gone: they are swept
}

func (w *simWorld) describe() string {
	text := ""
	for _, id := range w.ids() {
		if life := w.nodes[id].takesPart(); life != nil {
			c := life.node.core
			text += fmt.Sprintf("n%d %v of term %d, leader %v, commit %d of %d saved, applied %d, members %v, %d changes, %d uploads; ", id, c.state, c.term, ID(c.lead), c.commit, c.savedIndex, life.node.progress.index(), c.members.conf, len(c.changes), life.store.Stats().OpenUploads)
		} else {
			text += fmt.Sprintf("n%d is down; ", id)
		}
	}
	return text
}

// verify compares all replicas with one another, with every acknowledged put,
// and what clients saw with what can be.
func (w *simWorld) verify() {
	for _, m := range w.leader().life.node.core.members.list() {
		if w.force == nil && !slices.Contains(w.mayBe(m.ID), m.ClientURL) {
			w.fatalf("n%d is known at %s, and was last at %v", m.ID, m.ClientURL, w.mayBe(m.ID))
		}
	}
	var want kvstore.Stats
	var chunks []string
	cluster := w.leader().life.node.self.ClusterID
	if _, begun := w.histories[cluster]; !begun {
		w.fatalf("cluster %v has no history of its own", cluster)
	}
	for _, id := range slices.Sorted(maps.Keys(w.leader().life.node.core.members.members)) {
		if s := w.member(id); s == w.rotten {
			if w.verifies && s.life != nil && s.life.store.Verify(context.Background()) == nil {
				w.fatalf("n%d does not notice what its disk has done", id)
			}
			continue
		}
		store := w.member(id).life.store
		got := store.Stats()
		if want.AppliedIndex == 0 {
			want = got
		}
		if h := store.History(); h.ID != kvstore.HistoryID(w.histories[cluster]) || !w.descends(cluster, h.Parents) {
			w.fatalf("n%d has history %v, which went on from %v; cluster %v began %v of %v", id, h.ID, h.Parents, cluster, w.histories[cluster], w.histories)
		}
		if got.Revision != want.Revision || got.Digest != want.Digest {
			w.fatalf("n%d ends at revision %d with digest %s, others at %d with %s", id, got.Revision, got.Digest, want.Revision, want.Digest)
		}
		if err := errors.Join(store.Commit(), store.FlushIndex(), store.Verify(context.Background())); err != nil {
			w.fatalf("n%d does not verify: %v", id, err)
		}
		own := w.member(id).chunks()
		if chunks == nil {
			chunks = own
		}
		if !slices.Equal(own, chunks) { // no upload is open any more
			w.fatalf("n%d keeps the chunks %x, others %x", id, own, chunks)
		}
		for rev := kvstore.Revision(1); rev <= got.Revision; rev++ {
			head, err := store.DigestAt(rev)
			if err != nil {
				w.fatalf("n%d does not tell its head at revision %d: %v", id, rev, err)
			}
			w.compare(w.member(id), simMark{cluster, rev}, head)
		}
		for key, m := range w.created {
			v, err := store.Get(kvstore.Key(key))
			if err != nil || v.Revision != m.Revision || v.SHA256 != m.SHA256 {
				w.fatalf("n%d has %q as %+v, %v; acknowledged was revision %d, %s", id, key, v, err, m.Revision, m.SHA256)
			}
		}
	}
	w.checkOps()
	w.note("%d requests, revision %d, digest %s", len(w.ops), want.Revision, want.Digest)
}

// end sends clients home and stops all machines.
func (w *simWorld) end() {
	w.over = true
	for range 1000 {
		for _, id := range w.ids() {
			if s := w.nodes[id]; s.life != nil {
				s.crash(false)
			}
		}
		w.rest()
		if w.open == 0 && w.behind.Load() == 0 {
			return
		}
		w.pass(time.Second)
	}
	w.fatalf("%d clients and %d machines do not end", w.open, w.behind.Load())
}

// simValue returns a value of a few bytes, one that is a body, or one of several chunks.
func (w *simWorld) simValue(r *rand.Rand) []byte {
	if r.Float64() < w.p.large {
		return simBytes(uint64(r.IntN(3)), 2*kvstore.ChunkBytes+r.IntN(1000))
	}
	if w.bodies.puts > 0 && r.Float64() < w.bodies.puts {
		return w.bodies.value(r)
	}
	return fmt.Appendf(nil, "value %d%*d", r.IntN(3), 1+r.IntN(60), 0)
}

func digestText(d kvstore.Digest) string { return hex.EncodeToString(d[:]) }
