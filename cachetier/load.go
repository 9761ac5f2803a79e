package cachetier

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/golang/groupcache"

	"github.com/Focinfi/oncekv/kvstore"
)

// newTiers makes both tiers, under names that no other node in the process has.
func newTiers(n *Node) (owned, mirror *tier) {
	name := n.cfg.URL + " " + rand.Text()
	owned = &tier{node: n, source: sourceLoad, group: newGroup("owned "+name, n.getOwned, groupcache.NoPeers{})}
	mirror = &tier{node: n, source: sourcePeer, group: newGroup("mirror "+name, getUnmirrored, ownerPicker{n})}
	return owned, mirror
}

// load waits for a flight. It takes a found value whenever its load began. It takes an
// absence only from a load that began after arrived: an earlier one may have looked before
// a put that the caller knows of. The flight after such a one began when it was over, so
// there are at most two rounds.
func (t *tier) load(ctx context.Context, e *era, key kvstore.Key, arrived uint64) (*record, string, error) {
	var over *flight
	for {
		rec, f, err := t.join(e, string(key), over)
		if err != nil {
			return nil, "", err
		}
		if rec != nil {
			return rec, sourceHit, nil
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
		if !errors.Is(f.err, errAbsent) || f.start >= arrived {
			return f.rec, f.source, f.err
		}
		over = f
	}
}

// join returns what has come into memory meanwhile, or else the flight for key in an era,
// which it begins when there is none. Callers of a flight that is over get the same next
// one, which began after any of them came. An error means that none could be begun.
func (t *tier) join(e *era, key string, over *flight) (rec *record, f *flight, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if over != nil {
		if over.next != nil {
			return nil, over.next, nil
		}
		defer func() { over.next = f }()
	}
	before := t.flights[key]
	if before != nil && before.era == e {
		return nil, before, nil
	}
	if rec, _ := t.node.memory.Get(key); rec != nil {
		return rec, nil, nil
	}
	if err := t.node.enter(); err != nil {
		return nil, nil, err
	}
	key = strings.Clone(key) // it may be held, and must not keep a whole request in memory
	f = &flight{era: e, start: t.node.tick(), done: make(chan struct{}), before: before}
	if t.flights == nil {
		t.flights = make(map[string]*flight)
	}
	t.flights[key] = f
	go func() {
		defer t.node.leave()
		t.fly(f, key)
	}()
	return nil, f, nil
}

// fly is the one load of a flight. It always ends the flight, and never hands out a panic.
// What it found is held before the flight is over, so that there is no moment between in
// which another load could begin.
func (t *tier) fly(f *flight, key string) {
	defer t.end(f, key)
	defer recovered(t.node.log, "a load", &f.err)
	ctx, cancel := context.WithTimeout(context.WithValue(f.era.ctx, flightKey{}, f), t.node.cfg.LoadTimeout)
	defer cancel()
	if before := f.before; before != nil {
		f.before = nil
		select {
		case <-before.done: // soon: the end of its era has ended its context
		case <-ctx.Done():
			f.err = context.Cause(ctx)
			return
		}
	}
	enc := encoded{Sink: groupcache.ByteViewSink(new(groupcache.ByteView))}
	err := t.group.Get(ctx, key, &enc)
	switch {
	case err == nil && len(enc.raw) == 0:
		f.err = errAbsent
	case err == nil:
		f.source = t.source
		f.rec, f.err = decodeRecord(kvstore.Key(key), enc.raw)
	case errors.Is(err, errUnanswered):
		f.rec, f.source, f.err = t.node.loadBeside(ctx, f.era, kvstore.Key(key), f.pending)
	default:
		f.err = err
	}
	if f.err == nil && f.source == t.source { // else the other tier's flight has done it
		t.node.memory.Add(f.rec, t.source == sourcePeer, f.era.generation)
	}
}

// end publishes a flight's result. It first takes the flight out of the table, so that
// whoever comes afterwards begins a new one.
func (t *tier) end(f *flight, key string) {
	t.mu.Lock()
	if t.flights[key] == f { // else one of another era has taken its place
		delete(t.flights, key)
	}
	t.mu.Unlock()
	close(f.done)
}

// getOwned is the getter of the owned group: one read of the database.
func (n *Node) getOwned(ctx context.Context, key string, dest groupcache.Sink) (err error) {
	defer recovered(n.log, "a load from the database", &err)
	raw, err := n.fetcher.fetch(ctx, flightFrom(ctx).era, kvstore.Key(key), kvstore.Linearizable)
	if err != nil {
		return err
	}
	return dest.SetBytes(raw)
}

// getUnmirrored is the getter of the mirror group, which groupcache calls when the owner
// gave no answer. The flight then does the owner's work, and knows who did.
func getUnmirrored(context.Context, string, groupcache.Sink) error { return errUnanswered }

// loadBeside loads from the database while the owner's answer, which pending stands for if
// it is not nil, may still come. It takes the first answer. A failure is none as long as
// the other side may answer.
func (n *Node) loadBeside(ctx context.Context, e *era, key kvstore.Key, pending *call) (*record, string, error) {
	if pending == nil {
		return n.owned.load(ctx, e, key, n.tick())
	}
	type result struct {
		rec    *record
		source string
		err    error
	}
	database := make(chan result, 1)
	loading, cancel := context.WithCancel(ctx) // of the waiting only
	defer cancel()
	n.loads.Go(func() { // a flight is counted while this runs, so Close has not begun to wait
		rec, source, err := n.owned.load(loading, e, key, n.tick())
		database <- result{rec, source, err}
	})
	late, failed := pending.Done(), error(nil)
	for range 2 {
		select {
		case r := <-database:
			if r.err == nil || errors.Is(r.err, errAbsent) {
				return r.rec, r.source, r.err
			}
			failed = r.err
		case <-late:
			late = nil
			if rec, err := pending.late(); err == nil || errors.Is(err, errAbsent) {
				return rec, sourcePeer, err
			}
		case <-ctx.Done():
			return nil, "", cmp.Or(failed, context.Cause(ctx))
		}
	}
	return nil, "", failed
}

// ownerPicker is the groupcache.PeerPicker of the mirror group.
type ownerPicker struct{ node *Node }

// PickPeer returns the owner of key, or false when that is this node, or a node that is
// down.
func (o ownerPicker) PickPeer(key string) (owner groupcache.ProtoGetter, ok bool) {
	var err error
	defer func() {
		if err != nil {
			owner, ok = nil, false
		}
	}()
	defer recovered(o.node.log, "the choice of an owner", &err)
	v := o.node.view.Load()
	if p := v.peers[v.ring.owner(key)]; p != nil && !p.down.Load() {
		return p, true
	}
	return nil, false
}
