package raftnode

import (
	"slices"
	"sync"
	"sync/atomic"
)

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
