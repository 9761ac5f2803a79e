package raftnode

import (
	"context"
	"fmt"
	"sync"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// applier feeds the state machine on its own goroutine, so that a slow apply
// stops neither ticks nor heartbeats. The node's loop puts handoffs in; run
// takes them out in order.
type applier struct {
	sm       StateMachine
	waiters  *waiters
	progress *progress

	mu     sync.Mutex
	queue  []handoff
	bytes  int // of the items in queue and in hand
	wakeup chan struct{}
}

func newApplier(sm StateMachine, ws *waiters, p *progress) *applier {
	return &applier{sm: sm, waiters: ws, progress: p, wakeup: make(chan struct{}, 1)}
}

func handoffBytes(h handoff) (n int) {
	for _, it := range h.items {
		n += it.bytes
	}
	return n
}

// put queues a handoff. It never blocks; who fills the queue looks at
// backlog.
func (a *applier) put(h handoff) {
	if len(h.items) == 0 && h.install.Metadata.Index == 0 {
		return
	}
	a.mu.Lock()
	a.queue = append(a.queue, h)
	a.bytes += handoffBytes(h)
	a.mu.Unlock()
	select {
	case a.wakeup <- struct{}{}:
	default:
	}
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
	a.bytes -= handoffBytes(h)
	a.mu.Unlock()
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
		case <-a.wakeup:
		}
	}
}

func (a *applier) apply(h handoff) error {
	if h.install.Metadata.Index != 0 {
		if err := a.install(h.install); err != nil {
			return err
		}
	}
	for _, it := range h.items {
		if err := a.applyItem(it); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) applyItem(it applyItem) error {
	var data [][]byte
	if len(it.commands) > 0 {
		data = make([][]byte, len(it.commands))
		for i, c := range it.commands {
			data[i] = c.data
		}
	}
	results, err := a.execute(it, data)
	if err != nil {
		return fmt.Errorf("apply entry %d: %w", it.index, err)
	}
	if len(results) != len(data) {
		panic(fmt.Sprintf("raftnode: %d results for %d commands", len(results), len(data)))
	}
	// The index first: an answered put must be visible to a read that
	// starts after it.
	a.progress.set(it.index)
	a.waiters.resolveAll(it.commands, results)
	return nil
}

func (a *applier) execute(it applyItem, commands [][]byte) ([]any, error) {
	if it.history != (HistoryID{}) { // an entry of its own
		return nil, a.sm.Fork(it.index, it.term, it.meta, it.history)
	}
	return a.sm.Apply(it.index, it.term, commands, it.meta)
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
			a.waiters.resolve(c, result)
		}
	}
	return nil
}
