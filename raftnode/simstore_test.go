package raftnode

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"strings"
	"sync"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// simStore is the store of a process whose commits and flushes, which it makes by
// itself, end when the scheduler says so: entries are applied meanwhile, and the
// power may go. It is what the node sees of the store.
type simStore struct {
	*kvstore.Store
	s     *simNode
	known uint64 // level of the program
}

// Apply runs on a goroutine of its own, as the applier does: it may wait for a
// commit or a flush.
func (a simStore) Apply(index, term uint64, commands [][]byte, meta []byte) (results []any, err error) {
	if commands, err = a.understood(commands); err != nil {
		return nil, err
	}
	err = a.apart(func() (err error) {
		results, err = a.Store.Apply(index, term, commands, meta)
		return err
	})
	if err == nil {
		a.s.w.observe(a.s, index, commands, results)
	}
	return results, err
}

func (a simStore) apart(do func() error) (err error) {
	var done bool
	a.s.w.quiet()
	go func() {
		err = do()
		done = true
	}()
	for a.s.w.quiet(); !done; a.s.w.quiet() {
		if !a.s.writes.finish() {
			a.s.w.fatalf("n%d: Apply waits, and nothing is being written", a.s.id)
			return kvstore.ErrClosed
		}
	}
	return err
}

// Bootstrap begins the history of a cluster that was founded.
func (a simStore) Bootstrap(index, term uint64, meta []byte, history [16]byte) error {
	a.s.w.begins(meta, history)
	return a.Store.Bootstrap(index, term, meta, history)
}

// Fork begins that of one that was forced.
func (a simStore) Fork(index, term uint64, meta []byte, history [16]byte) error {
	a.s.w.begins(meta, history)
	return a.apart(func() error { return a.Store.Fork(index, term, meta, history) })
}

// begins notes which history a cluster has: on all members, and however often they
// begin it again, the same, and no other cluster has it.
func (w *simWorld) begins(meta []byte, history historyID) {
	t, err := decodeTable(meta)
	if err != nil {
		w.fatalf("a history begins with a table that cannot be read: %v", err)
		return
	}
	for cluster, known := range w.histories {
		if (cluster == t.cluster) != (known == history) {
			w.fatalf("cluster %v begins history %v, and cluster %v has %v", t.cluster, history, cluster, known)
		}
	}
	w.histories[t.cluster] = history
}

// Install writes to both files itself.
func (a simStore) Install(index, term uint64, meta, snapshot []byte) error {
	defer a.s.writes.set(a.s.writes.pass())
	return a.Store.Install(index, term, meta, snapshot)
}

// Stage may leave records that do not count: behind the end of history, or twice.
func (a simStore) Stage(ctx context.Context, snapshot []byte, fetch func(context.Context, string) (io.ReadCloser, error), fetchBodies bodies.Fetch) error {
	a.s.pulled = true
	if a.s.life != nil {
		a.s.life.staged = true
	}
	return a.Store.Stage(ctx, snapshot, fetch, fetchBodies)
}

// Body is for both versions' commands.
func (a simStore) Body(command []byte) (bodies.Ref, bool) {
	return a.Store.Body(bytes.TrimPrefix(command, simLaterCommand))
}

// Serve may commit.
func (a simStore) Serve(ctx context.Context, query string, w io.Writer) error {
	defer a.s.writes.set(a.s.writes.pass())
	return a.Store.Serve(ctx, query, w)
}

// descends reports whether the history of a cluster went on from those of the clusters
// that ended before it: each with a head that it has had.
func (w *simWorld) descends(cluster ID, parents []kvstore.Origin) bool {
	if w.force == nil || cluster != w.force.new {
		return len(parents) == 0
	}
	if len(parents) != 1 || parents[0].ID != kvstore.HistoryID(w.histories[w.force.old]) || parents[0].Revision < w.force.rev {
		return false
	}
	if parents[0].Revision == w.force.rev {
		return parents[0].Head == w.force.digest
	}
	// The end of the survivor's log counts, whatever the others made of the old cluster.
	head, known := w.digests[simMark{cluster, parents[0].Revision}]
	return !known || head == parents[0].Head
}

// simWrites holds up the durable writes of a process, at most one of each file.
type simWrites struct {
	w       *simWorld
	mu      sync.Mutex
	passing bool // nothing is held up but merges, which go on in the order of steps only
	held    [3]chan struct{}
}

// The files whose writes are held up, in the order in which they go on.
const (
	simHistory = iota
	simIndex
	simMerge // of the index
)

// hook is that of one file: its writes wait to be let go, and break by dice.
func (h *simWrites) hook(file int, dice *simDice) func(int) engine.FailPoint {
	return func(n int) engine.FailPoint {
		h.await(file)
		return dice.hook(n)
	}
}

// indexHook is that of the index: whoever makes a run waits to be let go, and what makes
// something durable breaks by dice, those of merges by dice of their own. Nobody waits
// when the list of runs is written, for then others wait for him.
func (h *simWrites) indexHook(dice, merges *simDice) func(keyruns.Call) keyruns.Fault {
	return func(c keyruns.Call) keyruns.Fault {
		waits := (c.Op == keyruns.OpCreate || c.Op == keyruns.OpSync) && strings.HasSuffix(c.Name, ".run")
		breaks := c.Op == keyruns.OpSync || c.Op == keyruns.OpSyncDir || c.Op == keyruns.OpRename
		if !waits && !breaks {
			return keyruns.Fault{}
		}
		file, dice := simIndex, dice
		if isMerge() {
			file, dice = simMerge, merges
		}
		if waits {
			h.await(file)
		}
		if !breaks {
			return keyruns.Fault{}
		}
		broken, after := dice.breaks(0.3) // there are several to a run
		if !broken {
			return keyruns.Fault{}
		}
		return keyruns.Fault{Err: engine.ErrInjected, Done: after}
	}
}

// isMerge reports whether the goroutine that calls it merges an index.
func isMerge() bool {
	var pcs [64]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs[:])])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "keyruns.(*Index).Run") {
			return true
		}
		if !more {
			return false
		}
	}
}

func (h *simWrites) await(file int) {
	h.mu.Lock()
	if h.passing && file != simMerge {
		h.mu.Unlock()
		return
	}
	goOn := make(chan struct{})
	h.held[file] = goOn
	h.mu.Unlock()
	<-goOn
}

// release lets one file's write go on, until the store waits again; false when
// none is held up.
func (h *simWrites) release(file int) bool {
	h.mu.Lock()
	goOn := h.held[file]
	h.held[file] = nil
	h.mu.Unlock()
	if goOn == nil {
		return false
	}
	close(goOn)
	h.w.quiet()
	return true
}

// finish lets go on what is held up now; false when that is nothing.
func (h *simWrites) finish() bool {
	history, index := h.release(simHistory), h.release(simIndex)
	return h.release(simMerge) || history || index
}

// pass lets all writes go on, those to come too. It returns whether they did
// before.
func (h *simWrites) pass() bool {
	was := h.set(true)
	h.finish()
	return was
}

// set lets writes go on, or be held up from now on: not in the middle of one.
func (h *simWrites) set(passing bool) (was bool) {
	if !passing {
		h.w.quiet()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	was, h.passing = h.passing, passing
	return was
}

// write lets the store write what it wants to, by itself, but for a file that is
// slow now.
func (s *simNode) write() {
	slow := [...]bool{simHistory: s.w.chance(s.w.p.slowWrite), simIndex: s.w.chance(s.w.p.slowWrite), simMerge: !s.w.calm.Load() && s.w.merges.Float64() < s.w.p.slowWrite}
	s.w.quiet()
	for more := true; more; {
		more = false
		for file, waits := range slow {
			if !waits && s.writes.release(file) {
				more = true
			}
		}
	}
}
