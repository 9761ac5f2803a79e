package raftnode

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
)

// arrivalWorld is a node to which messages come.
type arrivalWorld struct {
	*arrivals
	t     *testing.T
	store *bodies.Store

	mu       sync.Mutex
	admitted []uint64 // indexes of the messages
	fetches  [][]bodies.Ref
	others   map[bodies.Digest]bodies.Body // what other members have
}

func newArrivalWorld(t *testing.T, limit int) *arrivalWorld {
	store, err := bodies.Open(bodies.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	w := &arrivalWorld{t: t, store: store, others: map[bodies.Digest]bodies.Body{}}
	w.arrivals = newArrivals(references{store, (&listSM{}).Body}, limit, w.fetched, func(m raftpb.Message) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.admitted = append(w.admitted, m.Index)
	}, slog.New(slog.DiscardHandler))
	w.start()
	return w
}

func (w *arrivalWorld) end() {
	w.stop()
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
	if w.bytes != 0 {
		w.t.Errorf("%d bytes count as waiting", w.bytes)
	}
}

func (w *arrivalWorld) fetched(ctx context.Context, from ID, refs []bodies.Ref) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fetches = append(w.fetches, refs)
	for _, ref := range refs {
		if b, ok := w.others[ref.Digest]; ok {
			if _, err := w.store.Append(b.Digest, b.Data); err != nil {
				return err
			}
		}
	}
	return errors.Join(w.store.Sync(ctx), errors.New("the others have no more"))
}

// comes reports whether a message waits, or may go on.
func (w *arrivalWorld) comes(from, index uint64, list ...bodies.Body) (waits bool) {
	m := raftpb.Message{Type: raftpb.MsgApp, From: from, To: 1, Term: 2, Index: index, LogTerm: 1}
	for i, b := range list {
		m.Entries = append(m.Entries, raftpb.Entry{Index: index + 1 + uint64(i), Term: 2, Data: encodeBatch([]command{{origin: 1, seq: 1, data: []byte(referTo(b))}})})
	}
	return w.takes(&m, 5)
}

func (w *arrivalWorld) check(when string, fetches int, admitted ...uint64) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Equal(w.admitted, admitted) || len(w.fetches) != fetches {
		w.t.Errorf("%s: %v were let through after %d fetches, want %v after %d", when, w.admitted, len(w.fetches), admitted, fetches)
	}
}

// Messages of a sender stay in order behind one that waits, those of others and other
// messages pass. What is pushed in time is not fetched; one fetch asks for what several
// messages need.
func TestArrivals_Order(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newArrivalWorld(t, 1<<20)
		defer w.end()
		a, b, c, d := randomBody(1, 1000), randomBody(2, 1000), randomBody(3, 1000), randomBody(4, 1000)
		if w.comes(2, 10) || w.comes(2, 4, a) {
			t.Error("a message waits that needs nothing")
		}
		if !w.comes(2, 11, a) || !w.comes(2, 12) || !w.comes(2, 13, b, c) || w.comes(3, 14) || !w.comes(3, 15, d) {
			t.Error("a message does not wait")
		}
		heartbeat := raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 2}
		if w.takes(&heartbeat, 5) {
			t.Error("a heartbeat waits")
		}
		w.check("at first", 0)
		keepBody(t, w.store, a)
		w.arrived()
		w.check("when a was pushed", 0, 11, 12)
		w.others[b.Digest], w.others[c.Digest], w.others[d.Digest] = b, c, d
		if !w.comes(2, 16, a) {
			t.Error("a message passes one that waits")
		}
		<-time.After(2 * arrivalGrace)
		synctest.Wait()
		w.mu.Lock()
		slices.Sort(w.admitted)
		w.mu.Unlock()
		w.check("when the rest was fetched", 2, 11, 12, 13, 15, 16)
		if w.comes(2, 17, a, b, c) {
			t.Error("a message waits for what is here")
		}
		if len(w.rooms) != 0 {
			t.Errorf("%d rooms are left", len(w.rooms))
		}
	})
}

// What nobody has is dropped, and those behind it go on.
func TestArrivals_Drop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newArrivalWorld(t, 3*messageBytes)
		defer w.end()
		if !w.comes(2, 10, randomBody(1, 1000)) || !w.comes(2, 11) {
			t.Error("a message does not wait")
		}
		if !w.comes(3, 12, randomBody(1, 1000)) {
			t.Error("a message for which there is no room goes on")
		}
		<-time.After(2 * arrivalGrace)
		w.check("when nobody has it", 1, 11)
		if len(w.rooms) != 0 || w.bytes != 0 {
			t.Errorf("%d rooms of %d bytes are left", len(w.rooms), w.bytes)
		}
	})
}

// A node that stops forgets what waits, and takes nothing more.
func TestArrivals_Stop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newArrivalWorld(t, 1<<20)
		w.comes(2, 10, randomBody(1, 1000))
		w.end()
		if !w.comes(2, 11, randomBody(1, 1000)) || len(w.rooms) != 0 {
			t.Errorf("%d rooms are left", len(w.rooms))
		}
		w.check("after the end", 0)
	})
}
