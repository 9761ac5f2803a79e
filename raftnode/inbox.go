package raftnode

import (
	"sync"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// inbox collects what other goroutines want of the loop. Everything that came
// while the loop was busy, usually with an fsync, is taken at once: that is
// where batches come from.
type inbox struct {
	wake chan struct{}

	mu       sync.Mutex
	closed   bool
	msgs     []raftpb.Message
	msgBytes int
	cmds     []command
	cmdBytes int // of cmds and of what the core still queues, see held
	reads    []*read
	lost     []uint64
	calls    []func(*core)
}

// mail is one emptying of the inbox.
type mail struct {
	msgs  []raftpb.Message
	cmds  []command
	reads []*read
	lost  []uint64
	calls []func(*core)
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (in *inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

// messageBytes is about what a message takes beside its contents.
const messageBytes = 256

// addMessage keeps a message unless the mail would go beyond limit bytes; the
// sender notices and sends it again. Messages without entries may go a quarter
// beyond that: heartbeats and votes come through when appends fill the rest.
func (in *inbox) addMessage(m raftpb.Message, limit int) {
	size := messageBytes + m.Size()
	if len(m.Entries) == 0 {
		limit += limit / 4
	}
	in.mu.Lock()
	drop := in.closed || in.msgBytes+size > limit
	if !drop {
		in.msgs = append(in.msgs, m)
		in.msgBytes += size
	}
	in.mu.Unlock()
	if !drop {
		in.signal()
	}
}

// addCommands queues the proposals of a group; false, for all of them, if limit
// bytes wait already.
func (in *inbox) addCommands(origin uint64, g *group, limit int) bool {
	size := 0
	for i := range g.waiters {
		size += commandSize(g.waiters[i].data)
	}
	in.mu.Lock()
	ok := !in.closed && in.cmdBytes+size <= limit
	if ok {
		for i := range g.waiters {
			w := &g.waiters[i]
			in.cmds = append(in.cmds, command{origin: origin, seq: w.seq, data: w.data})
		}
		in.cmdBytes += size
	}
	in.mu.Unlock()
	if ok {
		in.signal()
	}
	return ok
}

// held tells the inbox how many bytes the core's own queue holds.
func (in *inbox) held(bytes int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cmdBytes = bytes
	for _, c := range in.cmds {
		in.cmdBytes += c.size()
	}
}

func (in *inbox) addRead(r *read) bool {
	in.mu.Lock()
	ok := !in.closed
	if ok {
		in.reads = append(in.reads, r)
	}
	in.mu.Unlock()
	in.signal()
	return ok
}

func (in *inbox) addLost(id uint64) {
	in.mu.Lock()
	if len(in.lost) < 64 { // a hint; more of them say nothing new
		in.lost = append(in.lost, id)
	}
	in.mu.Unlock()
	in.signal()
}

func (in *inbox) addCall(f func(*core)) bool {
	in.mu.Lock()
	ok := !in.closed
	if ok {
		in.calls = append(in.calls, f)
	}
	in.mu.Unlock()
	in.signal()
	return ok
}

func (in *inbox) take() mail {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := mail{in.msgs, in.cmds, in.reads, in.lost, in.calls}
	in.msgs, in.msgBytes, in.cmds, in.reads, in.lost, in.calls = nil, 0, nil, nil, nil, nil
	return m
}

// close refuses everything from now on and returns what was left.
func (in *inbox) close() mail {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	return in.take()
}
