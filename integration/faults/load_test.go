package faults

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/client"
	"github.com/Focinfi/oncekv/internal/checker"
	"github.com/Focinfi/oncekv/internal/clustertest"
	"github.com/Focinfi/oncekv/kvstore"
)

// load is many clients at once, each with its own share of the requests: two at every database
// node, one at every cache, a crowd at every cache, and two that use the Go client with all
// nodes.
type load struct {
	e        *episode
	into     *history
	frontier atomic.Int64 // keys below it have been put, or tried
	retries  atomic.Int64 // requests of the Go clients that failed in the end
	lastFail atomic.Pointer[string]
	requests context.Context // context of the requests themselves
	abandon  context.CancelFunc
	stopping context.CancelFunc
	running  sync.WaitGroup
}

const (
	attemptPatience = 6 * time.Second // for a client with one try
	pause           = 40 * time.Millisecond
)

// startLoad starts the load.
func startLoad(e *episode) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{e: e, into: e.history, stopping: cancel}
	l.requests, l.abandon = context.WithCancel(context.Background())
	e.t.Cleanup(func() { // if the episode fails, its nodes may never answer
		l.abandon()
		l.stop()
	})
	seed := e.seed * 1000
	for _, n := range e.world.all() {
		clients := 1
		if n.disk != nil {
			clients = 2
		}
		for i := range clients {
			seed++
			l.attach(ctx, n, fmt.Sprintf("p%d", i), seed)
		}
	}
	for i, c := range e.world.caches {
		l.crowd(ctx, fmt.Sprintf("crowd%d", i), c, e.world.dbs[i%len(e.world.dbs)])
	}
	for i := range 2 {
		seed++
		l.retrying(ctx, fmt.Sprintf("go%d", i), seed)
	}
	return l
}

// attach runs one client of a node.
func (l *load) attach(ctx context.Context, n *node, who string, seed uint64) {
	p := newProber(who, n, l.into, attemptPatience)
	rng := rand.New(rand.NewPCG(seed, 1))
	l.running.Go(func() {
		for l.rest(ctx, rng) {
			l.step(p, rng)
		}
	})
}

// crowd reads one key after another through a cache, many times at once, while it is put. Right
// after the put, one more read must find it: loads under way began before the put was
// acknowledged, so an absence that they find must not become this reader's answer.
func (l *load) crowd(ctx context.Context, who string, cache, db *node) {
	const readers, reads = 4, 6
	reader, writer := newProber(who, cache, l.into, attemptPatience), newProber(who, db, l.into, attemptPatience)
	rng := rand.New(rand.NewPCG(l.e.seed, rowNumber(who)))
	l.running.Go(func() {
		for n := 0; l.rest(ctx, rng); n++ {
			key := fmt.Sprintf("%s/%d", who, n)
			var burst sync.WaitGroup
			for range readers {
				burst.Go(func() {
					for range reads {
						reader.get(l.requests, key)
					}
				})
			}
			writer.put(l.requests, key, []byte(key), false)
			reader.get(l.requests, key)
			burst.Wait()
		}
	})
}

// rest paces a client. It returns false when the load must end.
func (l *load) rest(ctx context.Context, rng *rand.Rand) bool {
	t := time.NewTimer(rand.N(pause) + pause/2)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// step is one request of a client. It is not cut off when the load ends, because that would
// make its outcome unknown.
func (l *load) step(p *prober, rng *rand.Rand) {
	ctx := l.requests
	switch d := rng.IntN(100); {
	case d < 4:
		var keys []string
		var values [][]byte
		for range 1 + rng.IntN(10) {
			key := l.keyToPut(rng)
			keys, values = append(keys, key), append(values, l.value(p.who, key, rng))
		}
		p.batch(ctx, keys, values)
	case d < 5 && l.e.world.plan.bodies:
		l.abandoned(ctx, p, rng)
	case d < 45:
		key := l.keyToPut(rng)
		p.put(ctx, key, l.value(p.who, key, rng), rng.IntN(4) == 0)
	case d < 80:
		p.get(ctx, l.recent(rng, 60))
	case d < 98:
		p.get(ctx, keyNumber(l.frontier.Load()+rng.Int64N(4)))
	default:
		n := max(0, l.frontier.Load()-rng.Int64N(150))
		var candidates []string
		for i := n / 100 * 100; i < n/100*100+100 && i < l.frontier.Load()+4; i++ {
			candidates = append(candidates, keyNumber(i))
		}
		limit := 10_000
		if rng.IntN(2) == 0 {
			limit = 5 + rng.IntN(30)
		}
		p.list(ctx, keyPrefix(n), candidates, limit)
	}
}

// abandoned sends half of a large value and disconnects.
func (l *load) abandoned(ctx context.Context, p *prober, rng *rand.Rand) {
	key := l.keyToPut(rng)
	value := bodyValue(fmt.Appendf(nil, "%s %d abandons %s ", p.who, rng.Uint64(), key), rng)
	goOn := make(chan struct{})
	close(goOn)
	p.putFrom(ctx, key, value, &gatedBody{rest: bytes.NewReader(value), half: len(value) / 2, reached: func() {}, goOn: goOn, abandon: true}, false)
}

// keyToPut usually returns a new key, else one that others are putting now.
func (l *load) keyToPut(rng *rand.Rand) string {
	if rng.IntN(5) < 3 {
		return keyNumber(l.frontier.Add(1) - 1)
	}
	return l.recent(rng, 8)
}

// recent returns one of the last keys.
func (l *load) recent(rng *rand.Rand, last int64) string {
	return keyNumber(max(0, l.frontier.Load()-1-rng.Int64N(last)))
}

// value returns what a client puts: usually its own bytes, sometimes the same as everybody
// else.
func (l *load) value(who, key string, rng *rand.Rand) []byte {
	if rng.IntN(4) == 0 {
		return []byte("the value of " + key)
	}
	text := fmt.Appendf(nil, "%s %d puts %s ", who, rng.Uint64(), key)
	if l.e.world.plan.bodies && rng.IntN(10) == 0 {
		return bodyValue(text, rng)
	}
	size := 1 + rng.IntN(max(l.e.world.plan.valueBytes, 2<<10))
	if l.e.world.plan.chunked && rng.IntN(50) == 0 {
		size = kvstore.ChunkBytes + 1 + rng.IntN(kvstore.ChunkBytes)
	}
	if size > len(text) {
		text = append(text, bytes.Repeat(text, size/len(text))[:size-len(text)]...)
	}
	return text
}

// retrying runs one Go client of all nodes. It puts keys that nobody else puts, and reads some
// back.
func (l *load) retrying(ctx context.Context, who string, seed uint64) {
	cl := clustertest.Client(l.e.t, urls(l.e.world.all()...)...)
	rng := rand.New(rand.NewPCG(seed, 2))
	l.running.Go(func() {
		for n := 0; l.rest(ctx, rng); n++ {
			key := fmt.Sprintf("%s/%d", who, n)
			l.retriedPut(cl, who, key, l.value(who, key, rng))
			if rng.IntN(3) == 0 {
				l.retriedGet(cl, who, fmt.Sprintf("%s/%d", who, rng.IntN(n+1)))
			}
		}
	})
}

func (l *load) retriedPut(cl *client.Client, who, key string, value []byte) {
	ctx, cancel := context.WithTimeout(l.requests, clustertest.Patience)
	defer cancel()
	op := checker.Op{Key: key, Value: digestOf(value), Who: who, Call: int64(l.into.now()), Outcome: checker.Unknown}
	a, err := cl.PutBytes(ctx, key, value, client.PutOptions{})
	op.Return = int64(l.into.now())
	switch {
	case err == nil && a.Created:
		op.Outcome, op.Revision = checker.Created, a.Revision
	case err == nil:
		op.Outcome, op.Revision = checker.Unchanged, a.Revision
	default:
		l.failed("put %s: %v", key, err)
		if isDefinite(err) {
			return
		}
	}
	l.into.add(who, op)
}

func (l *load) retriedGet(cl *client.Client, who, key string) {
	ctx, cancel := context.WithTimeout(l.requests, clustertest.Patience)
	defer cancel()
	op := checker.Op{Key: key, Who: who, Outcome: checker.Found, Call: int64(l.into.now())}
	value, record, err := read(ctx, cl, key)
	op.Return = int64(l.into.now())
	switch {
	case err == nil:
		op.Seen, op.Revision = digestOf(value), record.Revision
	case isAbsent(err):
		op.Outcome = checker.Absent
	default:
		l.failed("get %s: %v", key, err)
		return
	}
	l.into.add(who, op)
}

// failed counts a request that a retrying client gave up.
func (l *load) failed(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	l.lastFail.Store(&text)
	l.retries.Add(1)
}

// stop ends the load and waits for the requests under way.
func (l *load) stop() {
	l.stopping()
	l.running.Wait()
}
