package raftnode

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"golang.org/x/time/rate"

	"github.com/Focinfi/oncekv/bodies"
)

const (
	// arrivalGrace is how long a message waits for a body to be pushed before it is
	// fetched: as a rule it is on its way.
	arrivalGrace = 300 * time.Millisecond
	// roomsMax bounds how many senders' messages wait at the same time.
	roomsMax = 32
	// arrivalSayEvery is how often it is logged that a message was dropped.
	arrivalSayEvery = 10 * time.Second
)

// arrivals keeps messages until the bodies that their entries refer to are here. One
// goroutine for each sender and kind of message fetches what is not pushed; it ends when
// nothing waits. The appends of a sender stay in order. Heartbeats and votes never wait. It
// may be used from any goroutine.
type arrivals struct {
	refs   references
	fetch  func(ctx context.Context, from ID, refs []bodies.Ref) error
	admit  func(m raftpb.Message) // to the inbox
	limit  int                    // bytes of messages that wait
	say    *rate.Limiter
	logger *slog.Logger

	mu      sync.Mutex
	ctx     context.Context // nil: nothing waits before start, or after stop
	cancel  context.CancelFunc
	rooms   map[roomKey]*room
	bytes   int
	running sync.WaitGroup
}

type roomKey struct {
	from ID
	kind raftpb.MessageType
}

// room is what waits of one sender, oldest first. It belongs to the lock of arrivals.
type room struct {
	list []arrival
	wake signal // bodies have arrived
}

type arrival struct {
	m    raftpb.Message
	refs []bodies.Ref
	at   time.Time
	size int
}

func newArrivals(refs references, limit int, fetch func(context.Context, ID, []bodies.Ref) error, admit func(raftpb.Message), logger *slog.Logger) *arrivals {
	return &arrivals{refs: refs, fetch: fetch, admit: admit, limit: limit, say: rate.NewLimiter(rate.Every(arrivalSayEvery), 1), logger: logger, rooms: map[roomKey]*room{}}
}

func (a *arrivals) start() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ctx, a.cancel = context.WithCancel(context.Background())
}

// stop forgets what waits, and waits for the goroutines.
func (a *arrivals) stop() {
	a.mu.Lock()
	if a.ctx != nil {
		a.cancel()
		a.ctx = nil
	}
	a.mu.Unlock()
	a.running.Wait()
}

// takes reports whether a message must wait, and keeps it then, or drops it if too much
// waits: its sender sends it again. Entries up to committed are ignored.
func (a *arrivals) takes(m *raftpb.Message, committed uint64) bool {
	if a.refs.store == nil || m.Type != raftpb.MsgApp && m.Type != raftpb.MsgProp {
		return false
	}
	var refs []bodies.Ref
	if m.Type == raftpb.MsgProp || m.Index >= committed {
		for i := range m.Entries {
			refs = append(refs, a.refs.of(&m.Entries[i])...)
		}
	}
	complete := len(a.lacking(refs, 1)) == 0
	key := roomKey{ID(m.From), m.Type}
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.rooms[key]
	if complete && (r == nil || m.Type == raftpb.MsgProp) {
		return false
	}
	size := messageBytes + m.Size()
	if a.ctx == nil || a.bytes+size > a.limit || r == nil && len(a.rooms) >= roomsMax {
		return true
	}
	if r == nil {
		r = &room{wake: newSignal()}
		a.rooms[key] = r
		ctx := a.ctx
		a.running.Go(func() { a.serve(ctx, key, r) })
	}
	a.bytes += size
	r.list = append(r.list, arrival{m: *m, refs: refs, at: time.Now(), size: size})
	return true
}

// arrived is called when bodies have become durable here.
func (a *arrivals) arrived() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.rooms {
		r.wake.send()
	}
}

// lacking returns those of the references, up to most, whose bodies are not here.
func (a *arrivals) lacking(refs []bodies.Ref, most int) (missing []bodies.Ref) {
	for _, ref := range refs {
		if len(missing) < most && !a.refs.store.Has(ref.Digest) {
			missing = append(missing, ref)
		}
	}
	return missing
}

// serve lets through what waits in a room, until nothing does.
func (a *arrivals) serve(ctx context.Context, key roomKey, r *room) {
	for ctx.Err() == nil {
		head, behind := a.look(r)
		missing := a.lacking(head.refs, bodies.FetchMax)
		if len(missing) == 0 {
			if a.next(key, r, true) {
				return
			}
			continue
		}
		if grace := time.Until(head.at.Add(arrivalGrace)); grace > 0 {
			timer := time.NewTimer(grace)
			select {
			case <-ctx.Done():
			case <-r.wake:
			case <-timer.C:
			}
			timer.Stop()
			continue
		}
		wanted := append(missing, a.lacking(behind, bodies.FetchMax-len(missing))...)
		err := a.fetch(ctx, key.from, wanted)
		if len(a.lacking(missing, 1)) == 0 {
			continue
		}
		if ctx.Err() == nil && a.say.Allow() {
			a.logger.Warn("dropped a message because no other member sends the values that it refers to", "type", key.kind.String(), "from", key.from.String(), "err", err)
		}
		if a.next(key, r, false) {
			return
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range r.list {
		a.bytes -= x.size
	}
	delete(a.rooms, key)
}

// look returns the first that waits, and what some of those behind it refer to.
func (a *arrivals) look(r *room) (head arrival, behind []bodies.Ref) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, x := range r.list[1:] {
		if behind = append(behind, x.refs...); len(behind) >= bodies.FetchMax {
			break
		}
	}
	return r.list[0], behind
}

// next removes the first that waits, and lets it through or drops it. It reports whether
// it was the last: then the room is gone.
func (a *arrivals) next(key roomKey, r *room, through bool) (last bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	head := r.list[0]
	if through {
		a.admit(head.m) // before anything that comes now can pass it
	}
	r.list[0] = arrival{}
	r.list = r.list[1:]
	a.bytes -= head.size
	if len(r.list) > 0 {
		return false
	}
	delete(a.rooms, key)
	return true
}
