package raftnode

import (
	"slices"
	"sync"
)

// outcome is what a proposal ends with.
type outcome struct {
	result any
	err    error
}

// waiter is one Propose call between its start and its answer. data never
// changes; the other fields belong to the lock of waiters.
type waiter struct {
	seq  uint64
	data []byte
	done chan outcome // capacity 1, written at most once

	queued   bool   // in the core's queue, not yet handed to raft
	handed   int    // how often raft was given it and did not refuse
	sentTick uint64 // when it was last handed to raft
}

// waiters maps the sequence numbers of this node's proposals to the calls
// that wait for them. The applier answers, the core proposes again: both only
// for an instant under the lock.
type waiters struct {
	origin uint64

	mu   sync.Mutex
	last uint64
	open map[uint64]*waiter
}

func newWaiters(origin uint64) *waiters {
	return &waiters{origin: origin, open: make(map[uint64]*waiter)}
}

// add registers a call; it is considered queued from now on.
func (ws *waiters) add(data []byte) *waiter {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.last++
	w := &waiter{seq: ws.last, data: data, done: make(chan outcome, 1), queued: true}
	ws.open[w.seq] = w
	return w
}

// drop forgets a call that gave up. It reports whether raft ever took it.
func (ws *waiters) drop(w *waiter) (accepted bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.open, w.seq)
	return w.handed > 0
}

// resolve answers the call behind c, if it is one of this node and still
// waits.
func (ws *waiters) resolve(c command, result any) {
	if c.origin != ws.origin {
		return
	}
	ws.mu.Lock()
	w := ws.open[c.seq]
	delete(ws.open, c.seq)
	ws.mu.Unlock()
	if w != nil {
		w.done <- outcome{result: result}
	}
}

// resolveAll answers the calls of one entry under a single lock.
func (ws *waiters) resolveAll(cmds []command, results []any) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, c := range cmds {
		if c.origin != ws.origin {
			continue
		}
		if w := ws.open[c.seq]; w != nil {
			delete(ws.open, c.seq)
			w.done <- outcome{result: results[i]} // capacity 1: never blocks
		}
	}
}

// claim returns those of the queued commands that somebody waits for, to be
// handed to raft at once. They count as handed from here on, not from the time
// raft has taken them: a call that gives up in between would say that nothing
// happened to a command that is then proposed.
func (ws *waiters) claim(cmds []command, tick uint64) []command {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	claimed := make([]command, 0, len(cmds))
	for _, c := range cmds {
		if c.origin == ws.origin {
			w := ws.open[c.seq]
			if w == nil {
				continue
			}
			w.queued = false
			w.handed++
			w.sentTick = tick
		}
		claimed = append(claimed, c)
	}
	return claimed
}

// unclaim takes a claim back: raft refused the commands, they stay queued.
func (ws *waiters) unclaim(cmds []command) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, c := range cmds {
		if w := ws.open[c.seq]; w != nil && c.origin == ws.origin {
			w.queued = true
			w.handed--
		}
	}
}

// wanted returns those of the commands that a call of this node waits for; it
// reuses the slice.
func (ws *waiters) wanted(cmds []command) []command {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.DeleteFunc(cmds, func(c command) bool { return c.origin != ws.origin || ws.open[c.seq] == nil })
}

// stale returns, oldest first, the calls that were handed to raft at or
// before the tick and still have no answer, and marks them queued again.
func (ws *waiters) stale(tick uint64) []command {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var cmds []command
	for _, w := range ws.open {
		if !w.queued && w.sentTick <= tick {
			w.queued = true
			cmds = append(cmds, command{origin: ws.origin, seq: w.seq, data: w.data})
		}
	}
	slices.SortFunc(cmds, func(a, b command) int { return int(int64(a.seq) - int64(b.seq)) })
	return cmds
}

// wasAccepted reports whether raft ever took w.
func (ws *waiters) wasAccepted(w *waiter) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return w.handed > 0
}

// count returns how many calls are open.
func (ws *waiters) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.open)
}

// list returns all open calls, oldest first.
func (ws *waiters) list() []command {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	cmds := make([]command, 0, len(ws.open))
	for _, w := range ws.open {
		cmds = append(cmds, command{origin: ws.origin, seq: w.seq, data: w.data})
	}
	slices.SortFunc(cmds, func(a, b command) int { return int(int64(a.seq) - int64(b.seq)) })
	return cmds
}

// failAll ends every call, because the node stops.
func (ws *waiters) failAll() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.open {
		err := ErrStopped
		if w.handed > 0 {
			err = ErrOutcomeUnknown
		}
		w.done <- outcome{err: err}
	}
	clear(ws.open)
}
