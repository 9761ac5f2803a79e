package raftnode

import (
	"context"
	"fmt"
	"sync"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// applier feeds the state machine on its own goroutine, so that a slow apply
// stops neither ticks nor heartbeats. The node's loop puts handoffs in; run
// takes them out in order.
type applier struct {
	sm       StateMachine
	waiters  *waiters
	progress *progress
	wake     signal

	mu    sync.Mutex
	queue []handoff
	bytes int // of the items in queue and in hand
}

func newApplier(sm StateMachine, ws *waiters, p *progress) *applier {
	return &applier{sm: sm, waiters: ws, progress: p, wake: newSignal()}
}

// put queues a handoff. It never blocks; backlog tells what waits.
func (a *applier) put(h handoff) {
	if len(h.items) == 0 && raft.IsEmptySnap(h.install) {
		return
	}
	a.mu.Lock()
	a.queue = append(a.queue, h)
	a.bytes += h.bytes()
	a.mu.Unlock()
	a.wake.send()
}

// backlog returns the bytes that wait to be applied.
func (a *applier) backlog() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.bytes
}

func (a *applier) take() []handoff {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queue
	a.queue = nil
	return q
}

func (a *applier) finished(h handoff) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bytes -= h.bytes()
}

// run applies until ctx ends or the state machine fails.
func (a *applier) run(ctx context.Context) error {
	for {
		for _, h := range a.take() {
			if ctx.Err() != nil {
				return nil
			}
			if err := a.apply(h); err != nil {
				return err
			}
			a.finished(h)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
	}
}

func (a *applier) apply(h handoff) error {
	if !raft.IsEmptySnap(h.install) {
		if err := a.install(h.install); err != nil {
			return err
		}
	}
	for _, it := range h.items {
		data := make([][]byte, len(it.commands))
		for i, c := range it.commands {
			data[i] = c.data
		}
		var results []any
		var err error
		if it.history != (historyID{}) { // an entry of its own
			err = a.sm.Fork(it.index, it.term, it.meta, it.history)
		} else {
			results, err = a.sm.Apply(it.index, it.term, data, it.meta)
		}
		if err != nil {
			return fmt.Errorf("apply entry %d: %w", it.index, err)
		}
		if len(results) != len(data) {
			panic(fmt.Sprintf("raftnode: %d results for %d commands", len(results), len(data)))
		}
		// The index first: an answered put must be visible to a read that
		// starts after it.
		a.progress.set(it.index)
		a.waiters.resolve(it.commands, results)
	}
	return nil
}

// install puts a staged snapshot in place and answers the calls whose entries
// were skipped by it: the state tells what became of them.
func (a *applier) install(s raftpb.Snapshot) error {
	d, err := decodeSnapshot(s.Data)
	if err != nil {
		return err
	}
	if err := a.sm.Install(s.Metadata.Index, s.Metadata.Term, d.meta, d.state); err != nil {
		return fmt.Errorf("install snapshot %d: %w", s.Metadata.Index, err)
	}
	a.progress.set(s.Metadata.Index)
	for _, c := range a.waiters.list() {
		result, decided, err := a.sm.Resolve(c.data)
		if err != nil {
			return fmt.Errorf("look up a proposal after snapshot %d: %w", s.Metadata.Index, err)
		}
		if decided {
			a.waiters.resolve([]command{c}, []any{result})
		}
	}
	return nil
}
