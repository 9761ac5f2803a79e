package raftnode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/internal/checker"
	"github.com/Focinfi/oncekv/kvstore"
)

// simClient is one request of a client, with its retries, on a goroutine of its
// own. It decides nothing but by its own dice, and goes on only in its turn.
type simClient struct {
	w      *simWorld
	number int
	r      *rand.Rand
	slow   bool // its body comes slowly

	proved, caughtUp time.Time // when the process asked how far the log goes, and had that

	cluster ID   // of the process that was asked last
	asked   []ID // clusters, those before too
}

type simClientKey struct{}

// begin starts a request and lets it run until it waits.
func (w *simWorld) begin(do func(*simClient)) {
	w.client++
	w.open++
	c := &simClient{w: w, number: w.client, r: rand.New(rand.NewPCG(w.r.Uint64(), 2))}
	go func() {
		c.await()
		do(c)
		w.open-- // in its turn
	}()
	w.rest()
}

func (c *simClient) await() { c.w.await(c.number, "") }

// now reads the clients' clock.
func (c *simClient) now() int64 {
	c.w.clock++
	return c.w.clock
}

func (c *simClient) context() (context.Context, context.CancelFunc) {
	ctx := context.WithValue(context.Background(), simClientKey{}, c)
	most := time.Duration(1+c.r.IntN(12_000)) * time.Millisecond
	if c.slow {
		most += 15 * time.Second
	}
	return context.WithTimeout(ctx, most+333*time.Microsecond) // at no moment of another timer
}

// pick returns a process to ask, nil when the machine does not answer.
func (c *simClient) pick() (*simNode, *simLife) {
	ids := c.w.ids()
	s := c.w.nodes[ids[c.r.IntN(len(ids))]]
	if leader := c.w.leader(); c.slow && leader != nil {
		s = leader
	}
	life := s.takesPart()
	if life != nil {
		c.cluster = life.node.self.ClusterID
		c.asked = append(c.asked, c.cluster)
	}
	return s, life
}

// key is one of those that clients fight over now: as keys are set, they turn to
// others.
func (c *simClient) key() kvstore.Key {
	first := max(0, int(c.w.newest)-c.w.p.keys/2)
	name := fmt.Sprintf("key %d", first+c.r.IntN(c.w.p.keys+1))
	return kvstore.Key(fmt.Sprintf("%-*s.", c.w.p.keyBytes, name))
}

// lost reports whether the answer of a process did not arrive.
func (c *simClient) lost(life *simLife) bool {
	return life.dead || c.w.over || !c.w.calm.Load() && c.r.Float64() < c.w.p.lost
}

// turned makes what is done for a client wait for its turn: the order in which
// requests reach a node is the scheduler's. A large put asks from several
// goroutines.
func (w *simWorld) turned(ctx context.Context, by string) {
	if c, ok := ctx.Value(simClientKey{}).(*simClient); ok {
		w.await(c.number, by)
	}
}

// put sets a key, and tries again with the same id, at any node, while nobody
// says what became of it.
func (w *simWorld) put(c *simClient) { w.putValue(c, w.simValue(c.r)) }

func (w *simWorld) putValue(c *simClient, body []byte) {
	sum := kvstore.Digest(sha256.Sum256(body))
	op := checker.Op{Key: string(c.key()), Outcome: checker.Unknown, Value: digestText(sum), Who: fmt.Sprintf("client %d", c.number), Call: c.now()}
	id := fmt.Sprintf("put-%d", c.number)
	maybe := false // some try may have taken effect
	for range 1 + c.r.IntN(4) {
		s, life := c.pick()
		if life == nil {
			continue // refused
		}
		op.Who += fmt.Sprintf(" n%d", s.id)
		ctx, cancel := c.context()
		result, err := life.db.Put(ctx, kvstore.PutRequest{Key: kvstore.Key(op.Key), PutID: id, Body: c.body(ctx, body), Size: int64(len(body))})
		cancel()
		c.await()
		switch {
		case c.lost(life):
			maybe = true
			continue
		case errors.Is(err, kvstore.ErrUnavailable), errors.Is(err, kvstore.ErrOverloaded):
			continue
		case err != nil:
			maybe = true
			continue
		}
		w.answered(c, &op, result)
		return
	}
	if maybe {
		w.record(c, op)
	}
}

// putSome sets one key or some.
func (w *simWorld) putSome(c *simClient) {
	if c.r.IntN(4) == 0 {
		w.putMany(c)
	} else {
		w.put(c)
	}
}

// putMany sets some keys with one call, and those that nobody has answered for
// with another one.
func (w *simWorld) putMany(c *simClient) {
	puts := make([]kvstore.SmallPut, 2+c.r.IntN(w.p.burst))
	ops := make([]checker.Op, len(puts))
	maybe := make([]bool, len(puts))
	done := make([]bool, len(puts))
	for i := range puts {
		value := w.simValue(c.r)
		value = value[:min(len(value), kvstore.ChunkBytes)] // PutMany is for small ones
		puts[i] = kvstore.SmallPut{Key: c.key(), PutID: fmt.Sprintf("put-%d-%d", c.number, i), Value: value}
		ops[i] = checker.Op{Key: string(puts[i].Key), Outcome: checker.Unknown, Value: digestText(sha256.Sum256(value)), Who: fmt.Sprintf("client %d", c.number), Call: c.now()}
	}
	for range 1 + c.r.IntN(4) {
		s, life := c.pick()
		if life == nil {
			continue // refused
		}
		var rest []kvstore.SmallPut
		var places []int
		for i := range puts {
			if !done[i] {
				rest, places = append(rest, puts[i]), append(places, i)
				ops[i].Who += fmt.Sprintf(" n%d", s.id)
			}
		}
		type answer struct {
			result kvstore.PutResult
			err    error
		}
		answers := make([]answer, len(rest))
		ctx, cancel := c.context()
		life.db.PutMany(ctx, rest, func(i int, r kvstore.PutResult, err error) { answers[i] = answer{r, err} })
		cancel()
		c.await()
		lost := c.lost(life)
		for n, a := range answers {
			switch i := places[n]; {
			case lost:
				maybe[i] = true
			case errors.Is(a.err, kvstore.ErrUnavailable), errors.Is(a.err, kvstore.ErrOverloaded):
			case a.err != nil:
				maybe[i] = true
			default:
				w.answered(c, &ops[i], a.result)
				done[i] = true
			}
		}
		if !slices.Contains(done, false) {
			return
		}
	}
	for i := range ops {
		if maybe[i] && !done[i] {
			w.record(c, ops[i])
		}
	}
}

// answered records what became of a put.
func (w *simWorld) answered(c *simClient, op *checker.Op, result kvstore.PutResult) {
	op.Return, op.Revision = c.now(), uint64(result.Meta.Revision)
	switch result.Outcome {
	case kvstore.Created:
		op.Outcome = checker.Created
		if !w.lost(c.cluster) {
			w.created[op.Key] = result.Meta
		}
	case kvstore.Unchanged:
		op.Outcome = checker.Unchanged
	case kvstore.Conflict:
		op.Outcome, op.Seen = checker.Conflict, digestText(result.Meta.SHA256)
	default:
		w.fatalf("a put was answered %v", result.Outcome)
	}
	w.saw(c, op.Revision)
	w.record(c, *op)
}

// saw notes how far history goes at least.
func (w *simWorld) saw(c *simClient, rev uint64) {
	w.newest, w.told[c.cluster] = max(w.newest, rev), max(w.told[c.cluster], rev)
}

func (w *simWorld) record(c *simClient, op checker.Op) {
	w.note("%v", op)
	w.ops = append(w.ops, simOp{op, c.cluster, slices.Clone(c.asked)})
}

// get reads a key at one node.
func (w *simWorld) get(c *simClient) {
	op := checker.Op{Key: string(c.key()), Call: c.now(), Who: fmt.Sprintf("client %d", c.number)}
	s, life := c.pick()
	if life == nil {
		return
	}
	op.Who += fmt.Sprintf(" n%d", s.id)
	consistency := kvstore.Linearizable
	if c.r.IntN(4) == 0 {
		consistency = kvstore.Local
	}
	ctx, cancel := c.context()
	defer cancel()
	v, err := life.db.Get(ctx, kvstore.Key(op.Key), consistency)
	c.await()
	switch {
	case c.lost(life):
	case err == nil:
		op.Outcome, op.Seen, op.Revision = checker.Found, digestText(v.SHA256), uint64(v.Revision)
		if err := c.read(ctx, v); err != nil && !life.dead && !w.expected(s, err) && !errors.Is(err, kvstore.ErrClosed) {
			w.fatalf("n%d: %q cannot be read: %v", s.id, op.Key, err)
		}
		op.Return = c.now()
		w.saw(c, op.Revision)
		w.record(c, op)
	case errors.Is(err, kvstore.ErrNotFound) && consistency == kvstore.Linearizable:
		op.Outcome, op.Return = checker.Absent, c.now()
		w.record(c, op)
	}
}

// read compares a value's bytes with its digest.
func (c *simClient) read(ctx context.Context, v *kvstore.Value) error {
	body := v.Open(context.WithoutCancel(ctx))
	defer body.Close()
	h := sha256.New()
	if _, err := io.Copy(h, body); err != nil {
		return err
	}
	if got := kvstore.Digest(h.Sum(nil)); got != v.SHA256 {
		return fmt.Errorf("its bytes have digest %s, its record says %s", got, v.SHA256)
	}
	return nil
}

// look asks how far history goes: not less than anybody was told before.
func (w *simWorld) look(c *simClient) {
	s, life := c.pick()
	if life == nil {
		return
	}
	told := w.told[c.cluster]
	ctx, cancel := c.context()
	defer cancel()
	_, err := life.db.Changes(ctx, kvstore.ChangesRequest{After: math.MaxUint64, Limit: 1}, kvstore.Linearizable)
	c.await()
	var beyond *kvstore.HistoryChangedError // it says where history ends
	if errors.As(err, &beyond) && !c.lost(life) && !(w.lost(c.cluster) && w.force.copied) && uint64(beyond.Newest) < told {
		w.fatalf("n%d lists changes to revision %d, although %d was acknowledged before", s.id, beyond.Newest, told)
	}
}

// reform changes the members or moves leadership, where the leader is.
func (w *simWorld) reform(c *simClient) {
	defer func() { w.change = false }()
	s := w.leader()
	if s == nil {
		return
	}
	life := s.life
	n := life.node
	all := n.core.members.list()
	m := all[c.r.IntN(len(all))]
	req := changeRequest{Op: "transfer", Name: m.Name}
	switch kind := c.r.IntN(6); {
	case kind == 0 && w.rotten == nil && !w.failed: // else only the copy that has lied might be left, or no majority
		req = changeRequest{Op: "remove", Name: m.Name, Force: c.r.IntN(4) == 0}
		w.unwanted[m.ID] = true
	case kind == 1:
		req = changeRequest{Op: "promote", Name: m.Name}
	case kind == 2 && len(all) < 6 && len(w.nodes) < 12:
		s := w.machine(ID(len(w.nodes)+1), nil)
		s.joins = true
		w.note("n%d joins", s.id)
		return
	case kind == 3 && len(all) < 6 && len(w.nodes) < 12:
		joiner := simMember(ID(len(w.nodes) + 1))
		joiner.Promote = c.r.IntN(4) > 0
		joiner.Level = w.machine(joiner.ID, &identity{ClusterID: n.self.ClusterID, Peers: all}).known
		req = changeRequest{Op: "add", Member: joiner}
	case kind == 5:
		w.moves++
		m.ClientURL = fmt.Sprintf("http://h%d:%d", m.ID, 2+w.moves)
		req = changeRequest{Op: "add", Member: m} // it is one already: it has moved
	}
	ctx, cancel := c.context()
	defer cancel()
	_, err := n.changeHere(ctx, req)
	c.await()
	if life.dead && err == nil {
		err = ErrOutcomeUnknown // its answer is lost
	}
	w.moved(req.Member, err)
	w.note("%s %s%s at n%d: %v", req.Op, req.Name, req.Member.Name, s.id, err)
}

// moved notes where a member may be known to be: where the last change put it that
// was answered, or one after that whose outcome is unknown.
func (w *simWorld) moved(m Member, err error) {
	switch {
	case m.ID == 0 || errors.Is(err, ErrRefused) || errors.Is(err, ErrUnavailable):
	case err == nil:
		w.places[m.ID] = []string{m.ClientURL}
	default:
		w.places[m.ID] = append(w.mayBe(m.ID), m.ClientURL)
	}
}

// mayBe lists the URLs under which a member may be known.
func (w *simWorld) mayBe(id ID) []string {
	if urls := w.places[id]; urls != nil {
		return urls
	}
	return []string{simMember(w.member(id).id).ClientURL}
}
