package kvstore

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"slices"

	"github.com/Focinfi/oncekv/internal/keyruns"
)

// FlushIndex brings everything applied so far into history and index, and
// returns when both are durable. An error is fatal.
func (s *Store) FlushIndex() error {
	s.applyMu.Lock()
	s.mu.Lock()
	s.memtable.freeze(&s.applied.derived)
	s.mu.Unlock()
	s.applyMu.Unlock()
	if err := s.Commit(); err != nil {
		return err
	}
	return s.flushFrozen(context.Background())
}

// flushFrozen makes an index run of the frozen generations that history has. A revision
// that history could still lose must never be indexed: its key would be "already set" when
// the log gives it again. When ctx ends before the run counts, nothing has changed.
func (s *Store) flushFrozen(ctx context.Context) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	s.mu.RLock()
	generations := s.memtable.indexable(s.durable.rev)
	s.mu.RUnlock()
	if len(generations) == 0 {
		return nil
	}
	run, last := sortGenerations(generations), generations[len(generations)-1]
	err := s.index.Add(ctx, run.all(), run.len(), keyruns.Mark{Revision: uint64(last.last), Digest: last.digest})
	if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
		return nil
	}
	if err != nil {
		return s.failed("write index", indexError(err))
	}
	s.mu.Lock()
	s.memtable.drop(len(generations))
	// Few, but not in step with those of other replicas.
	s.flushAt = int64(float64(s.cfg.MemtableBytes/2) * (1 - s.cfg.Spread()/4))
	s.releaseLocked()
	s.mu.Unlock()
	return nil
}

// sortedRun is keys of some generations in byte order.
type sortedRun struct {
	generations []*generation
	places      []runPlace
}

// runPlace is where a key is. The collector does not look at a million of them.
type runPlace struct {
	start      uint64 // the key's first eight bytes: mostly they tell two keys apart
	generation uint32
	at         uint32
}

func sortGenerations(generations []*generation) sortedRun {
	n := 0
	for _, g := range generations {
		n += g.len()
	}
	r := sortedRun{generations: generations, places: make([]runPlace, 0, n)}
	for i, g := range generations {
		for at := range g.len() {
			var start [8]byte // a key has no NUL, so what is shorter comes first
			copy(start[:], g.bytesOf(at))
			r.places = append(r.places, runPlace{binary.BigEndian.Uint64(start[:]), uint32(i), uint32(at)})
		}
	}
	slices.SortFunc(r.places, func(a, b runPlace) int {
		if a.start != b.start {
			return cmp.Compare(a.start, b.start)
		}
		return bytes.Compare(r.bytesOf(a), r.bytesOf(b))
	})
	return r
}

func (r *sortedRun) bytesOf(p runPlace) []byte {
	return r.generations[p.generation].bytesOf(int(p.at))
}

func (r *sortedRun) len() int { return len(r.places) }

// all gives the keys in order, with their revisions.
func (r *sortedRun) all() iter.Seq2[[]byte, uint64] {
	return func(yield func([]byte, uint64) bool) {
		for _, p := range r.places {
			if !yield(r.bytesOf(p), uint64(r.generations[p.generation].first)+uint64(p.at)) {
				return
			}
		}
	}
}
