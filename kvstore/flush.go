package kvstore

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
)

// keyRevisionPair is one entry of the index.
type keyRevisionPair struct {
	key Key
	rev Revision
}

// FlushIndex brings everything applied so far into history and index, and
// returns when both are durable. An error is fatal.
func (s *Store) FlushIndex() error {
	s.applyMu.Lock()
	s.mu.Lock()
	s.overlay.freeze()
	s.mu.Unlock()
	s.applyMu.Unlock()
	if err := s.Commit(); err != nil {
		return err
	}
	return s.flushFrozen(context.Background())
}

// flushDueLocked reports whether the index lags far enough for a flush: few,
// large flushes write far less than many small ones. mu is held.
func (s *Store) flushDueLocked() bool {
	return s.overlay.frozenBytes() >= s.cfg.OverlayBytes/2
}

// flushFrozen indexes the frozen generations that history has. Revisions that
// history could still lose must never be indexed: their keys would be "already
// set" when the log gives them again. When ctx ends it stops between slices; a
// part without the mark of the last slice is written again after a restart.
func (s *Store) flushFrozen(ctx context.Context) error {
	s.flushMu.Lock()
	defer s.flushMu.Unlock()
	if err := s.err(); err != nil {
		return err
	}
	s.mu.RLock()
	generations := s.overlay.indexable(s.durable.rev)
	s.mu.RUnlock()
	if len(generations) == 0 {
		return nil
	}
	pairs := sortedPairs(generations)
	last := generations[len(generations)-1]
	for slice := range slices.Chunk(pairs, s.cfg.IndexSliceKeys) {
		if ctx.Err() != nil {
			return nil
		}
		pairs = pairs[len(slice):]
		mark := []byte(nil)
		if len(pairs) == 0 {
			mark = encodeIndexed(last.last, last.digest)
		}
		if err := s.index.Update(func(tx Tx) error { return writeIndexSlice(tx, slice, mark) }); err != nil {
			return s.failed("write index", err)
		}
	}
	s.mu.Lock()
	s.overlay.drop(len(generations))
	s.releaseLocked()
	s.mu.Unlock()
	return nil
}

// sortedPairs returns the entries of all generations in key order, so that a
// slice touches neighbouring pages.
func sortedPairs(generations []*generation) []keyRevisionPair {
	n := 0
	for _, g := range generations {
		n += len(g.keys)
	}
	pairs := make([]keyRevisionPair, 0, n)
	for _, g := range generations {
		for k, rev := range g.keys {
			pairs = append(pairs, keyRevisionPair{k, rev})
		}
	}
	sortPairs(pairs)
	return pairs
}

// writeIndexSlice writes part of a flush; mark, when it is the last part, says
// how far the index goes now.
func writeIndexSlice(tx Tx, slice []keyRevisionPair, mark []byte) error {
	values := make([]byte, 0, 8*len(slice))
	var key []byte
	for _, p := range slice {
		key = append(key[:0], p.key...)
		values = binary.BigEndian.AppendUint64(values, uint64(p.rev))
		if err := tx.Put(BucketKeys, key, values[len(values)-8:]); err != nil {
			return err
		}
	}
	if mark == nil {
		return nil
	}
	return tx.Put(BucketState, keyIndexed, mark)
}

// indexedRevision looks key up in the index, 0 when it is not there.
func indexedRevision(tx Tx, key []byte) (Revision, error) {
	v := tx.Get(BucketKeys, key)
	if v == nil {
		return 0, nil
	}
	rev, ok := keyRevision(v)
	if !ok || rev == 0 {
		file, off := tx.Where(v)
		return 0, &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("the entry of key %q is not a revision", key)}
	}
	return rev, nil
}
