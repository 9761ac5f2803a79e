package raftnode

import (
	"sync"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// inbox collects what other goroutines want of the loop. Everything that came
// while the loop was busy, usually with an fsync, is taken at once: that is
// where batches come from.
type inbox struct {
	wake signal

	mu       sync.Mutex
	closed   bool
	mail     mail
	msgBytes int
	cmdBytes int // of the commands and of what the core still queues, see setQueued
}

// mail is one emptying of the inbox.
type mail struct {
	msgs  []raftpb.Message
	cmds  []command
	reads []*read
	lost  []uint64
	calls []func(*core)
}

func newInbox() *inbox { return &inbox{wake: newSignal()} }

// add lets f put something into the mail, and reports whether it did. f is not called
// once the inbox is closed.
func (in *inbox) add(f func() bool) bool {
	in.mu.Lock()
	ok := !in.closed && f()
	in.mu.Unlock()
	if ok {
		in.wake.send()
	}
	return ok
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
	in.add(func() bool {
		if in.msgBytes+size > limit {
			return false
		}
		in.mail.msgs = append(in.mail.msgs, m)
		in.msgBytes += size
		return true
	})
}

// addCommands queues the proposals of a group; false, for all of them, if limit
// bytes wait already.
func (in *inbox) addCommands(origin uint64, g *group, limit int) bool {
	size := 0
	for i := range g.waiters {
		size += commandSize(g.waiters[i].data)
	}
	return in.add(func() bool {
		if in.cmdBytes+size > limit {
			return false
		}
		for i := range g.waiters {
			w := &g.waiters[i]
			in.mail.cmds = append(in.mail.cmds, command{origin: origin, seq: w.seq, data: w.data})
		}
		in.cmdBytes += size
		return true
	})
}

// setQueued tells the inbox how many bytes the core's own queue holds.
func (in *inbox) setQueued(bytes int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.cmdBytes = bytes
	for _, c := range in.mail.cmds {
		in.cmdBytes += c.size()
	}
}

func (in *inbox) addRead(r *read) bool {
	return in.add(func() bool {
		in.mail.reads = append(in.mail.reads, r)
		return true
	})
}

func (in *inbox) addLost(id uint64) {
	in.add(func() bool {
		if len(in.mail.lost) < 64 { // a hint; more of them say nothing new
			in.mail.lost = append(in.mail.lost, id)
		}
		return true
	})
}

func (in *inbox) addCall(f func(*core)) bool {
	return in.add(func() bool {
		in.mail.calls = append(in.mail.calls, f)
		return true
	})
}

func (in *inbox) take() mail {
	in.mu.Lock()
	defer in.mu.Unlock()
	m := in.mail
	in.mail, in.msgBytes = mail{}, 0
	return m
}

// close refuses everything from now on and returns what was left.
func (in *inbox) close() mail {
	in.mu.Lock()
	in.closed = true
	in.mu.Unlock()
	return in.take()
}
