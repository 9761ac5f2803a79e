package raftnode

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
)

// outcome is what a proposal ends with.
type outcome struct {
	result any
	err    error
}

// waiter is one command between its proposal and its answer. data, group and place
// never change; the other fields belong to the lock of waiters.
type waiter struct {
	seq   uint64
	data  []byte
	group *group
	place int // in group.outcomes

	queued   bool   // in the core's queue, not yet handed to raft
	late     uint8  // how often an answer of this leader was overdue
	handed   int    // how often raft was given it and did not refuse
	sentTick uint64 // when it was last handed to raft
}

// group is the commands of one ProposeMany, with one caller that waits for all of them. It
// belongs to the lock of waiters until done is closed, then to the caller.
type group struct {
	waiters  []waiter // with consecutive sequence numbers
	outcomes []outcome
	left     int           // waiters without an outcome
	done     chan struct{} // closed when left is 0
}

// waiters maps the sequence numbers of this node's proposals to the calls that wait for
// them.
type waiters struct {
	origin uint64

	mu   sync.Mutex
	last uint64
	open map[uint64]*waiter
}

func newWaiters(origin uint64) *waiters {
	return &waiters{origin: origin, open: make(map[uint64]*waiter)}
}

// add registers the commands of a call; they are considered queued from now on.
func (ws *waiters) add(commands [][]byte) *group {
	g := &group{waiters: make([]waiter, len(commands)), outcomes: make([]outcome, len(commands)), left: len(commands), done: make(chan struct{})}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, data := range commands {
		ws.last++
		g.waiters[i] = waiter{seq: ws.last, data: data, group: g, place: i, queued: true}
		ws.open[ws.last] = &g.waiters[i]
	}
	return g
}

// end gives an open command its outcome.
func (ws *waiters) end(w *waiter, out outcome) {
	delete(ws.open, w.seq)
	g := w.group
	g.outcomes[w.place] = out
	if g.left--; g.left == 0 {
		close(g.done)
	}
}

// giveUp ends those of a call's commands that have no answer: with unsent if raft
// never took them, else with lost, unless that is nil.
func (ws *waiters) giveUp(g *group, unsent, lost error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i := range g.waiters {
		w, err := &g.waiters[i], unsent
		if w.handed > 0 {
			err = lost
		}
		if ws.open[w.seq] == w && err != nil {
			ws.end(w, outcome{err: err})
		}
	}
}

// refuse ends the call behind c, which was not let into the queue.
func (ws *waiters) refuse(c command, err error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if w := ws.open[c.seq]; w != nil && c.origin == ws.origin {
		if w.handed > 0 {
			err = ErrOutcomeUnknown
		}
		ws.end(w, outcome{err: err})
	}
}

// resolve answers the calls behind commands, as far as they are this node's and
// still wait.
func (ws *waiters) resolve(cmds []command, results []any) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for i, c := range cmds {
		if w := ws.open[c.seq]; w != nil && c.origin == ws.origin {
			ws.end(w, outcome{result: results[i]})
		}
	}
}

// claim returns those of the queued commands that somebody waits for, to be handed to raft
// at once. They count as handed from here on: a call that gives up before raft has taken
// them must not say that nothing happened.
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

// handedOver returns, oldest first, the calls that were handed to a leader and have no
// answer, and marks them queued again: that leader leads no more.
func (ws *waiters) handedOver() []command {
	return ws.collect(func(w *waiter) bool {
		again := !w.queued
		if again {
			w.queued, w.late = true, 0
		}
		return again
	})
}

// lateMax bounds how far the time between two attempts grows.
const lateMax = 4

// overdue returns, oldest first, the calls that were handed to raft and got no answer in
// time, and marks them queued again: a message to the leader may be lost. The time is
// patience at first and doubles with each attempt, because the leader or a majority may as
// well be slow.
func (ws *waiters) overdue(now, patience uint64) []command {
	return ws.collect(func(w *waiter) bool {
		again := !w.queued && now-w.sentTick >= patience<<w.late
		if again {
			w.queued, w.late = true, min(w.late+1, lateMax)
		}
		return again
	})
}

// list returns all open calls, oldest first.
func (ws *waiters) list() []command { return ws.collect(func(*waiter) bool { return true }) }

// collect returns the open calls for which f is true, oldest first.
func (ws *waiters) collect(f func(*waiter) bool) []command {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	var cmds []command
	for _, w := range ws.open {
		if f(w) {
			cmds = append(cmds, command{origin: ws.origin, seq: w.seq, data: w.data})
		}
	}
	slices.SortFunc(cmds, func(a, b command) int { return cmp.Compare(a.seq, b.seq) })
	return cmds
}

// count returns how many commands are open.
func (ws *waiters) count() int {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return len(ws.open)
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
		ws.end(w, outcome{err: err})
	}
}

// progress publishes the applied index and releases whoever waits for it.
type progress struct {
	mu      sync.Mutex
	applied uint64
	waits   []appliedWait
}

type appliedWait struct {
	index uint64
	reads []*read
}

// set moves the applied index forward and answers the reads it satisfies.
func (p *progress) set(applied uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.applied = applied
	rest := p.waits[:0]
	for _, w := range p.waits {
		if w.index > applied {
			rest = append(rest, w)
			continue
		}
		answerReads(w.reads, nil)
	}
	clear(p.waits[len(rest):])
	p.waits = rest
}

// wait answers the reads as soon as the applied index has reached index.
func (p *progress) wait(index uint64, reads []*read) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.applied >= index {
		answerReads(reads, nil)
		return
	}
	p.waits = append(p.waits, appliedWait{index, reads})
}

func (p *progress) index() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.applied
}

// failAll ends every read, because the node stops.
func (p *progress) failAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.waits {
		answerReads(w.reads, ErrStopped)
	}
	p.waits = nil
}

// forget drops the reads whose callers have left.
func (p *progress) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.waits {
		p.waits[i].reads = wanted(p.waits[i].reads)
	}
	p.waits = slices.DeleteFunc(p.waits, func(w appliedWait) bool { return len(w.reads) == 0 })
}

// read is one ReadIndex call between its start and its answer.
type read struct {
	done chan error  // capacity 1, written at most once
	left atomic.Bool // nobody waits any more
}

func newRead() *read { return &read{done: make(chan error, 1)} }

// wanted returns the reads that somebody waits for; it reuses the slice.
func wanted(reads []*read) []*read {
	return slices.DeleteFunc(reads, func(r *read) bool { return r.left.Load() })
}

func answerReads(reads []*read, err error) {
	for _, r := range reads {
		r.done <- err
	}
}
