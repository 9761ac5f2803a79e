package raftnode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore"
)

// Every machine has a store of bodies on its disk, under the same model as its log:
// fsyncs die or fail, and what was not synced is lost, kept or torn when the power goes,
// holes and removed segments too.

// valuesDir is where a machine has them.
const valuesDir = "values"

// simBodies decides about the bodies of a world. It has dice of its own, so that other
// worlds stay as they are.
type simBodies struct {
	r *rand.Rand

	puts         float64 // of values, those that are a body
	segmentBytes int64
	grace        time.Duration
	round        time.Duration // of reclaiming
	lost         float64       // of bodies on their way
	distinct     int           // values are of so many kinds, and each kind the same bytes
	ticks        uint64        // for which the logs hold bodies that were applied

	sum simBodyCounts
}

// simBodyCounts says how much happened.
type simBodyCounts struct{ sent, fetched, pulled, saved, released, reclaimed int }

func (c *simBodyCounts) add(o simBodyCounts) {
	c.sent, c.fetched, c.pulled, c.saved = c.sent+o.sent, c.fetched+o.fetched, c.pulled+o.pulled, c.saved+o.saved
	c.released, c.reclaimed = c.released+o.released, c.reclaimed+o.reclaimed
}

func newSimBodies(seed uint64) *simBodies {
	b := &simBodies{r: rand.New(rand.NewPCG(seed, 8))}
	if b.r.IntN(2) == 0 {
		b.puts = 0.3 * b.r.Float64()
	}
	b.segmentBytes = 100 << 10 << b.r.IntN(5)
	b.grace = time.Duration(1+b.r.IntN(5)) * time.Second
	b.round = time.Duration(300+100*b.r.IntN(12)) * time.Millisecond
	if b.r.IntN(2) == 0 {
		b.lost = 0.3 * b.r.Float64()
	}
	b.distinct = 1 + b.r.IntN(20)
	b.ticks = 1 + b.r.Uint64N(60)
	return b
}

// value returns one that is a body, of a size around the smallest and the largest that
// are, or between. Many are the same.
func (b *simBodies) value(r *rand.Rand) []byte {
	kind := r.IntN(b.distinct)
	size := kvstore.BodyBytesMin + kind*1500
	switch {
	case kind%8 < 3:
		size = kvstore.BodyBytesMin - 1 + kind%8
	case kind%8 == 3 && r.IntN(4) == 0:
		size = kvstore.ChunkBytes - 1 + r.IntN(3) // the largest that is one body, or one that is two
	}
	return simBytes(uint64(kind), size)
}

// simBytes returns bytes that nothing compresses, the same for the same kind.
func simBytes(kind uint64, size int) []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], kind)
	p := make([]byte, size)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

// openBodies opens those of a process that starts.
func (s *simNode) openBodies() (*bodies.Store, error) {
	return bodies.Open(bodies.Config{
		Dir: filepath.Join(s.files.dir, valuesDir), SegmentBytes: s.w.bodies.segmentBytes, Grace: s.w.bodies.grace,
		Round:  s.w.bodies.round + time.Duration(s.id)*1_000_003, // at no moment of another timer
		Logger: s.w.logger(s.id), Now: s.clock.steady, Sync: s.files.sync,
	})
}

// ofValues reports whether a file is one that the store of bodies writes.
func (f *simFiles) ofValues(path string) bool {
	values := filepath.Join(f.dir, valuesDir)
	return path == values || filepath.Dir(path) == values
}

// keeps reports whether a body would be there if the power went, whatever the dice say.
func (f *simFiles) keeps(body []byte) bool {
	values := f.top.names[valuesDir]
	if values == nil {
		return false
	}
	for _, i := range values.names {
		if bytes.Contains(i.data, body) {
			return true
		}
	}
	return false
}

// refs lists the bodies that an entry refers to.
func (n *Node) simRefs(e *raftpb.Entry) (refs []bodies.Ref) {
	if e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
		return nil
	}
	cmds, _, err := decodeBatch(e.Data)
	if err != nil {
		return nil // others judge that
	}
	for _, c := range cmds {
		if ref, ok := n.sm.Body(c.data); ok {
			refs = append(refs, ref)
		}
	}
	return refs
}

// saves judges what a process is about to write to its log: each body that it refers to
// is durable, on this machine.
func (w *simWorld) saves(s *simNode, entries []raftpb.Entry) {
	for i := range entries {
		for _, ref := range s.life.node.simRefs(&entries[i]) {
			switch body, err := s.life.bodies.Read(ref.Digest, nil); {
			case err != nil:
				w.fatalf("n%d writes entry %d to its log, and does not have body %s: %v", s.id, entries[i].Index, ref.Digest, err)
			case !s.files.keeps(body):
				w.fatalf("n%d writes entry %d to its log, and body %s is not durable", s.id, entries[i].Index, ref.Digest)
			default:
				w.bodies.sum.saved++
			}
		}
	}
}

// reclaimed judges, when the store of bodies has given back room, that nobody needed it.
func (s *simNode) reclaimed() error {
	before, after := s.life.bodyStats, s.life.bodies.Stats()
	if s.life.bodyStats = after; after.ReclaimedBytes == before.ReclaimedBytes {
		return nil
	}
	s.w.bodies.sum.reclaimed += int(after.ReclaimedBytes - before.ReclaimedBytes)
	s.w.note("n%d has reclaimed: %+v", s.id, after)
	return s.needed()
}

// needed judges that what the log refers to above the durable applied index is here.
func (s *simNode) needed() error {
	n := s.life.node
	applied, _, _, _, err := n.sm.Durable()
	if err != nil {
		return err
	}
	log := n.core.log
	last, err := log.LastIndex()
	if err != nil || last <= applied {
		return err
	}
	entries, err := log.MemoryStorage.Entries(max(applied+1, log.first), last+1, 1<<62)
	if err != nil {
		return err
	}
	for i := range entries {
		for _, ref := range n.simRefs(&entries[i]) {
			if _, err := s.life.bodies.Read(ref.Digest, nil); err != nil && s != s.w.rotten {
				s.w.fatalf("n%d has applied up to entry %d, and entry %d lacks body %s: %v", s.id, applied, entries[i].Index, ref.Digest, err)
			}
		}
	}
	return nil
}

// fetch asks another machine for bodies, over a stream that may break off or be damaged.
func (s *simNode) fetch(from *simNode) bodies.Fetch {
	return fetchBodies(s.life.node.client, s.life.node.self.ClusterID, simMember(from.id).PeerURL)
}

// loses decides whether a body is lost on its way.
func (w *simWorld) loses() bool {
	return !w.calm.Load() && w.bodies.lost > 0 && w.bodies.r.Float64() < w.bodies.lost
}

// simParcel is a batch of bodies on its way to a member, or what the member says of it.
type simParcel struct {
	from    *simLife
	queue   *pushQueue
	batch   []*push
	answers []bodies.Answer // on the way back; nil: none came
	back    bool
	trip    *simTrip
}

// simTrip is what becomes of a batch: one answer counts.
type simTrip struct{ over bool }

// simTripSteps bound how long a batch may be without an answer.
const simTripSteps = 60

// Distribute is the node's, in turns of the scheduler.
func (l simLog) Distribute(ctx context.Context, list []bodies.Body) error {
	by := "bodies " + list[0].Digest.String()
	l.w.turned(ctx, by)
	err := l.node.Distribute(ctx, list)
	l.w.turned(ctx, by)
	if errors.Is(err, ErrDiskFull) {
		return fmt.Errorf("%w: %w", kvstore.ErrDiskReserve, err)
	}
	return simStoreError(err)
}

// setPeer makes a queue of bodies for a member, which no goroutine empties.
func (s *simNode) setPeer(id ID, url string) { s.files.node.simPeer(id, url) }

func (n *Node) simPeer(id ID, url string) {
	p := n.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case url == "":
		delete(p.queues, id)
	case id != n.self.ID && p.queues[id] == nil:
		p.queues[id] = &pushQueue{id: id, url: url, wake: make(chan struct{}, 1), cancel: func() {}}
	}
}

// push sends what is queued for members.
func (s *simNode) push() {
	life := s.life
	for _, id := range slices.Sorted(maps.Keys(life.node.pushes.queues)) {
		q := life.node.pushes.queues[id]
		for life.pushing[id] < pushRequests {
			_, batch := life.node.pushes.take(q)
			if len(batch) == 0 {
				break
			}
			life.pushing[id]++
			p := &simParcel{from: life, queue: q, batch: batch, trip: &simTrip{}}
			s.w.ship(s, id, p)
			s.w.send(s, s.raft, 1+s.w.r.Int64N(simTripSteps), &simParcel{from: life, queue: q, batch: batch, back: true, trip: p.trip})
		}
	}
}

// ship puts a parcel on the wire, where it may be lost, late and doubled.
func (w *simWorld) ship(s *simNode, to ID, p *simParcel) {
	for again := true; again; again = w.chance(w.p.repeat) {
		if w.chance(w.p.drop) || w.loses() {
			continue
		}
		delay := int64(1)
		if !w.calm.Load() {
			delay += w.r.Int64N(w.p.delay)
		}
		w.send(s, to, delay, p)
	}
}

func (w *simWorld) send(s *simNode, to ID, delay int64, p *simParcel) {
	w.sent++
	w.wire = append(w.wire, simMessage{at: w.step + delay, number: w.sent, from: s.id, to: to, raft: s.raft, cluster: s.life.node.self.ClusterID, parcel: p})
}

// unpack keeps the bodies that have come, and says so.
func (s *simNode) unpack() error {
	life := s.life
	parcels := life.parcels
	life.parcels = nil
	for _, x := range parcels {
		p := x.parcel
		if p.back {
			if p.from != life || p.trip.over {
				continue
			}
			p.trip.over = true
			life.pushing[p.queue.id]--
			life.node.pushes.note(p.queue, p.batch, p.answers)
			s.w.quiet() // whoever waits for it
			continue
		}
		answers := s.receive(p.batch)
		if err := errors.Join(life.bodies.Err(), s.files.alive()); err != nil {
			return err
		}
		s.w.ship(s, x.raft, &simParcel{from: p.from, queue: p.queue, batch: p.batch, answers: answers, back: true, trip: p.trip})
	}
	return nil
}

// receive makes a batch durable, and answers it, as a request to the peer port does; nil
// if that answers otherwise.
func (s *simNode) receive(batch []*push) []bodies.Answer {
	n := s.life.node
	var b bytes.Buffer
	if err := writePushes(&b, batch); err != nil {
		s.w.fatalf("bodies cannot be sent: %v", err)
	}
	answer := httptest.NewRecorder()
	n.takeBodies(answer, httptest.NewRequest(http.MethodPost, bodiesPath, &b))
	s.w.quiet() // what has waited for them
	if answer.Code != http.StatusOK || answer.Body.Len() != len(batch) {
		return nil
	}
	var answers []bodies.Answer
	for i, c := range answer.Body.Bytes() {
		answers = append(answers, bodies.Answer(c))
		if !batch[i].ask {
			s.w.bodies.sum.sent++
		}
	}
	return answers
}

// arrivals keeps messages until the bodies that they refer to are here. They are fetched
// in turns of the scheduler.
func (s *simNode) arrivals(life *simLife, n *Node) *arrivals {
	c := s.w.actor()
	return newArrivals(references{n.cfg.Bodies, n.sm.Body}, n.cfg.QueueBytes, func(ctx context.Context, from ID, refs []bodies.Ref) error {
		s.w.await(c.number, fmt.Sprintf("%v %v", from, refs[0].Digest))
		if life.dead {
			return ErrStopped
		}
		s.w.bodies.sum.fetched += len(refs)
		return n.fetchMissing(context.WithValue(ctx, simClientKey{}, c), from, refs)
	}, func(m raftpb.Message) { life.arrived = append(life.arrived, m) }, n.logger)
}

// endArrivals lets those who wait for bodies go, and does not wait for them.
func (n *Node) endArrivals() {
	if n.arrivals == nil {
		return
	}
	n.arrivals.mu.Lock()
	defer n.arrivals.mu.Unlock()
	if n.arrivals.ctx != nil {
		n.arrivals.cancel()
		n.arrivals.ctx = nil
	}
}

// complete takes messages that lack bodies out of the inbox, and puts those in that lack
// none any more.
func (s *simNode) complete() {
	life := s.life
	n := life.node
	inbox := life.arrived
	life.arrived = nil
	for _, m := range life.inbox {
		if m.Type == raftpb.MsgProp && !n.Leads() || !n.arrivals.takes(&m, n.commit.Load()) {
			inbox = append(inbox, m)
		}
	}
	life.inbox = inbox
}

// letGo judges that the logs let go what they hold when nothing is written any more.
func (w *simWorld) letGo() {
	holds := func() (n int) {
		if w.leader() == nil {
			return 1 // whoever leads next says who the members are
		}
		for id := range w.leader().life.node.core.members.members {
			switch s := w.member(id); {
			case s == w.rotten:
			case s.life == nil || s.life.node.core == nil:
				n++ // it is not back yet
			default:
				n += s.life.node.core.log.bodies
			}
		}
		return n
	}
	held := holds()
	w.bodies.sum.released += held
	const slack = 500 // steps, for a commit to history, and machines that are slow
	for left := slack + 2*simTick*int(w.bodies.ticks); w.failure == "" && held > 0; left-- {
		if held = holds(); left == 0 {
			w.fatalf("the logs still hold %d bodies", held)
		}
		w.oneStep()
	}
}

// referred lists the bodies that the durable history refers to, those of chunks too if
// that is wanted.
func (s *simNode) referred(store *kvstore.Store, chunks bool) (map[bodies.Digest]bool, error) {
	want := map[bodies.Digest]bool{}
	for after := kvstore.Revision(0); after < store.Stats().Revision; {
		page, err := store.Changes(kvstore.ChangesRequest{After: after, Limit: 1000})
		if err != nil {
			return nil, err
		}
		after = page.Scanned
		for _, m := range page.Records {
			if m.Size >= kvstore.BodyBytesMin && m.Size <= kvstore.ChunkBytes {
				want[bodies.Digest(m.SHA256)] = true
			}
		}
	}
	if chunks {
		for _, row := range s.chunks() {
			want[bodies.Digest([]byte(row[len(row)-len(bodies.Digest{}):]))] = true
		}
	}
	return want, nil
}

// starts judges that what the history refers to is here when a process starts.
func (s *simNode) starts(life *simLife) error {
	if err := s.files.alive(); err != nil || s == s.w.rotten {
		return err // it has died in an fsync: there is nothing to read any more
	}
	want, err := s.referred(life.store, !s.pulled) // chunks that were pulled may not count
	if err != nil {
		return err
	}
	for d := range want {
		if _, ok := life.bodies.Size(d); !ok {
			s.w.fatalf("n%d starts, and its history refers to body %s, which is missing", s.id, d)
		}
	}
	return nil
}

// verifyBodies judges what a machine has when nothing goes wrong any more: what its history
// refers to, and nothing else.
func (s *simNode) verifyBodies() {
	life := s.life
	err := life.store.Commit()
	var want map[bodies.Digest]bool
	if err == nil {
		want, err = s.referred(life.store, true)
	}
	if err != nil {
		s.w.fatalf("n%d does not list its history: %v", s.id, err)
		return
	}
	var size int64
	for d := range want {
		body, err := life.bodies.Read(d, nil)
		if err != nil || sha256.Sum256(body) != d {
			s.w.fatalf("n%d cannot read body %s: %v", s.id, d, err)
		}
		size += int64(len(body))
	}
	const header = 200 // at most
	st := life.bodies.Stats()
	if n := int64(len(want)); st.Bodies != n || st.LiveBytes < size || st.LiveBytes > size+n*header {
		s.w.fatalf("n%d has a history that refers to %d bodies of %d bytes, and has %+v", s.id, n, size, st)
	}
}

// simPullWait is more than a store keeps all bodies for a pull that nobody goes on with.
const simPullWait = 11 * time.Minute

// verifyRoom judges, when all that nobody needs has had time to go, what is left.
func (w *simWorld) verifyRoom() {
	if slices.ContainsFunc(w.ids(), func(id ID) bool { return w.nodes[id].life != nil && w.nodes[id].life.staged }) {
		w.pass(simPullWait)
	}
	if w.letGo(); w.failure != "" {
		return
	}
	w.pass(2*w.bodies.grace + 3*w.p.commitEvery + 3*w.bodies.round)
	for _, id := range slices.Sorted(maps.Keys(w.leader().life.node.core.members.members)) {
		if s := w.member(id); s != w.rotten {
			if err := s.reclaimed(); err != nil {
				w.fatalf("n%d: %v", s.id, err)
			}
			s.verifyBodies()
		}
	}
}
