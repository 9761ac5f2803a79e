package raftnode

import (
	"fmt"
	"slices"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/bodies"
)

// memlog is the part of the log that raft reads: every entry after the last compaction, in
// memory, counted in bytes; the WAL has all of it. It holds the bodies that its entries
// refer to and counts their bytes. Owned by the goroutine that drives the core.
type memlog struct {
	*raft.MemoryStorage
	refs   references
	conf   raftpb.ConfState // what RawNode starts from, see newCore
	logged []logEntry       // the entries from first on
	first  uint64
	bytes  int // sum of the sizes
	bodies int // that the entries hold
}

// logEntry is what the log knows of an entry.
type logEntry struct {
	size  int          // with its bodies
	held  []bodies.Ref // its bodies
	added uint64       // tick at which it came, see core.now
}

func newMemlog(refs references) *memlog {
	return &memlog{MemoryStorage: raft.NewMemoryStorage(), refs: refs, first: 1}
}

// InitialState starts raft from the state machine's ConfState, not from the snapshot's:
// raft starts at the state machine's applied index and never sees the changes in between.
func (l *memlog) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	hs, _, err := l.MemoryStorage.InitialState()
	return hs, l.conf, err
}

// restore makes a snapshot the start of the log.
func (l *memlog) restore(s raftpb.Snapshot) error {
	if err := l.ApplySnapshot(s); err != nil {
		return fmt.Errorf("start the log at snapshot %d: %w", s.Metadata.Index, err)
	}
	l.cut(0)
	l.first = s.Metadata.Index + 1
	return nil
}

// add appends entries at a tick, replacing what they contradict, and holds their
// bodies. Those of entries up to applied may be gone: the last entry that lacks one is
// returned, zero if none does. Any other body that is missing is errDisk.
func (l *memlog) add(entries []raftpb.Entry, applied, now uint64) (lacking uint64, err error) {
	if len(entries) == 0 {
		return 0, nil
	}
	if err := l.Append(entries); err != nil {
		return 0, fmt.Errorf("append to the log: %w", err)
	}
	for i := range entries {
		e := &entries[i]
		if e.Index < l.first {
			continue // compacted already
		}
		l.cut(int(e.Index - l.first))
		size, refs := e.Size(), l.refs.of(e)
		held := refs[:0]
		for _, ref := range refs {
			size += ref.Size
			switch {
			case l.refs.store.Hold(ref.Digest):
				held = append(held, ref)
			case e.Index <= applied:
				lacking = e.Index
			default:
				l.refs.release(held)
				return lacking, fmt.Errorf("%w: entry %d refers to body %s of %d bytes, which is not here; %s", errDisk, e.Index, ref.Digest, ref.Size, putBack)
			}
		}
		l.logged = append(l.logged, logEntry{size, held, now})
		l.bytes += size
		l.bodies += len(held)
	}
	return lacking, nil
}

// cut gives up what is counted and held for all entries but the first keep.
func (l *memlog) cut(keep int) {
	keep = min(keep, len(l.logged))
	l.giveUp(l.logged[keep:])
	clear(l.logged[keep:])
	l.logged = l.logged[:keep]
}

// giveUp stops to count and hold what belongs to entries.
func (l *memlog) giveUp(list []logEntry) {
	for _, e := range list {
		l.bytes -= e.size
		l.bodies -= len(e.held)
		l.refs.release(e.held)
	}
}

// Entries implements raft.Storage. Bodies count as part of their entries.
func (l *memlog) Entries(lo, hi, maxSize uint64) ([]raftpb.Entry, error) {
	entries, err := l.MemoryStorage.Entries(lo, hi, maxSize)
	if err != nil {
		return nil, err
	}
	var size uint64
	for i := range entries {
		size += uint64(l.logged[entries[i].Index-l.first].size)
		if i > 0 && size > maxSize {
			return entries[:i], nil
		}
	}
	return entries, nil
}

// bytesUpTo sums the entries from after to upTo.
func (l *memlog) bytesUpTo(after, upTo uint64) int {
	sum := 0
	for i := max(after+1, l.first); i <= upTo && i-l.first < uint64(len(l.logged)); i++ {
		sum += l.logged[i-l.first].size
	}
	return sum
}

// lastHolding returns the last entry up to one that holds bodies and came by a tick;
// zero if there is none.
func (l *memlog) lastHolding(upTo, by uint64) uint64 {
	if l.bodies == 0 || upTo < l.first {
		return 0
	}
	for i := min(int(upTo-l.first), len(l.logged)-1); i >= 0; i-- {
		if e := &l.logged[i]; e.added <= by && len(e.held) > 0 {
			return l.first + uint64(i)
		}
	}
	return 0
}

// snapshotted records a local snapshot and drops the entries before it, but
// keeps up to keep bytes of them for members that are a little behind.
func (l *memlog) snapshotted(s raftpb.Snapshot, keep int) error {
	if _, err := l.CreateSnapshot(s.Metadata.Index, &s.Metadata.ConfState, s.Data); err != nil {
		return fmt.Errorf("record snapshot %d: %w", s.Metadata.Index, err)
	}
	to := s.Metadata.Index
	for to >= l.first && keep > 0 {
		keep -= l.logged[to-l.first].size
		to--
	}
	return l.compact(to)
}

// compact drops the entries up to one.
func (l *memlog) compact(to uint64) error {
	if to < l.first {
		return nil
	}
	if err := l.Compact(to); err != nil {
		return fmt.Errorf("compact the log to %d: %w", to, err)
	}
	n := int(to + 1 - l.first)
	l.giveUp(l.logged[:n])
	l.logged = slices.Clone(l.logged[n:])
	l.first = to + 1
	return nil
}

// references finds the bodies that entries refer to, and holds them.
type references struct {
	store *bodies.Store // nil: nothing refers to a body
	body  func(command []byte) (bodies.Ref, bool)
}

// ofCommand returns what a command refers to.
func (r references) ofCommand(data []byte) (ref bodies.Ref, ok bool) {
	if r.store == nil {
		return ref, false
	}
	ref, ok = r.body(data)
	return ref, ok && ref.Size > 0 && ref.Size <= bodies.MaxBytes // else it is none
}

// of returns what the commands of an entry refer to: nil for most entries.
func (r references) of(e *raftpb.Entry) (refs []bodies.Ref) {
	if r.store == nil || e.Type != raftpb.EntryNormal || len(e.Data) == 0 {
		return nil
	}
	_, count, b, err := batchHead(e.Data)
	if err != nil {
		return nil
	}
	for range count {
		var c command
		if c, b, err = nextCommand(b); err != nil {
			return refs
		}
		if ref, ok := r.ofCommand(c.data); ok {
			refs = append(refs, ref)
		}
	}
	return refs
}

// release gives up one hold of each.
func (r references) release(refs []bodies.Ref) {
	for _, ref := range refs {
		r.store.Release(ref.Digest)
	}
}
