package raftnode

import (
	"fmt"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"
)

// memlog is the part of the log that raft reads: every entry after the last
// compaction, in memory, counted in bytes. All of it is on disk in the WAL as
// well. Owned by the goroutine that drives the core.
type memlog struct {
	*raft.MemoryStorage
	conf  raftpb.ConfState // what RawNode starts from, see newCore
	sizes []int            // of the entries from first on
	first uint64
	bytes int // sum of sizes
}

func newMemlog() *memlog { return &memlog{MemoryStorage: raft.NewMemoryStorage(), first: 1} }

// InitialState starts raft from the state machine's ConfState, not from the
// snapshot's: raft never sees again the changes between the two, because it
// starts with the state machine's applied index.
func (l *memlog) InitialState() (raftpb.HardState, raftpb.ConfState, error) {
	hs, _, err := l.MemoryStorage.InitialState()
	return hs, l.conf, err
}

// restore makes a snapshot the start of the log.
func (l *memlog) restore(s raftpb.Snapshot) error {
	if err := l.ApplySnapshot(s); err != nil {
		return fmt.Errorf("start the log at snapshot %d: %w", s.Metadata.Index, err)
	}
	l.sizes, l.bytes, l.first = nil, 0, s.Metadata.Index+1
	return nil
}

// add appends entries, replacing what they contradict.
func (l *memlog) add(entries []raftpb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	if err := l.Append(entries); err != nil {
		return fmt.Errorf("append to the log: %w", err)
	}
	for _, e := range entries {
		if e.Index < l.first {
			continue // compacted already
		}
		at := int(e.Index - l.first)
		for _, n := range l.sizes[min(at, len(l.sizes)):] {
			l.bytes -= n
		}
		l.sizes = append(l.sizes[:at], e.Size())
		l.bytes += e.Size()
	}
	return nil
}

// bytesUpTo sums the entries from after to upTo.
func (l *memlog) bytesUpTo(after, upTo uint64) int {
	sum := 0
	for i := max(after+1, l.first); i <= upTo && i-l.first < uint64(len(l.sizes)); i++ {
		sum += l.sizes[i-l.first]
	}
	return sum
}

// snapshotted records a local snapshot and drops the entries before it, but
// keeps up to keep bytes of them for members that are a little behind.
func (l *memlog) snapshotted(s raftpb.Snapshot, keep int) error {
	if _, err := l.CreateSnapshot(s.Metadata.Index, &s.Metadata.ConfState, s.Data); err != nil {
		return fmt.Errorf("record snapshot %d: %w", s.Metadata.Index, err)
	}
	to := s.Metadata.Index
	for to >= l.first && keep > 0 {
		keep -= l.sizes[to-l.first]
		to--
	}
	if to < l.first {
		return nil
	}
	if err := l.Compact(to); err != nil {
		return fmt.Errorf("compact the log to %d: %w", to, err)
	}
	for _, n := range l.sizes[:to+1-l.first] {
		l.bytes -= n
	}
	l.sizes = append([]int(nil), l.sizes[to+1-l.first:]...)
	l.first = to + 1
	return nil
}
