package raftnode

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"go.etcd.io/etcd/raft/v3"
	"go.etcd.io/etcd/raft/v3/raftpb"

	"github.com/Focinfi/oncekv/raftnode/walscan"
)

// errSimDisk is a write or an fsync that failed, or the power that went in it.
var errSimDisk = errors.New("simulated disk failure")

// simDisk is a write-ahead log whose writes are lost, or survive in part, unless
// they were synced. What was synced is never lost.
type simDisk struct {
	dice   *simDice
	synced diskState
	loose  []func(*diskState) // written and not synced, in the order of the file
	prev   raftpb.HardState
}

func (d *simDisk) save(hs raftpb.HardState, entries []raftpb.Entry, _ bool) error {
	for _, e := range entries {
		d.loose = append(d.loose, func(s *diskState) { s.append(e) })
	}
	must := raft.MustSync(hs, d.prev, len(entries))
	if !raft.IsEmptyHardState(hs) {
		// The largest step there is, and a few elections of the node's own.
		if next := walscan.TermToward(d.prev.Term, hs.Term); d.prev.Term > 0 && hs.Term > next+8 {
			return fmt.Errorf("term %d is written after term %d, and the next start would refuse it", hs.Term, d.prev.Term)
		}
		d.prev = hs
		d.loose = append(d.loose, func(s *diskState) { s.state = hs })
	}
	if !must {
		return nil
	}
	return d.sync()
}

// append adds an entry, in place of what it contradicts.
func (s *diskState) append(e raftpb.Entry) {
	first := s.snapshot.Metadata.Index + 1
	if e.Index >= first {
		s.entries = append(s.entries[:e.Index-first:e.Index-first], e)
	}
}

func (d *simDisk) saveSnapshot(snap raftpb.Snapshot) error {
	d.loose = append(d.loose, func(s *diskState) {
		var rest []raftpb.Entry
		for _, e := range s.entries {
			if e.Index > snap.Metadata.Index {
				rest = append(rest, e)
			}
		}
		s.snapshot, s.entries = snap, rest
	})
	return d.sync()
}

func (d *simDisk) sync() error {
	broken, after := d.dice.breaks()
	if broken && !after {
		return errSimDisk
	}
	d.settle(len(d.loose))
	if broken {
		return errSimDisk
	}
	return nil
}

// settle makes the first writes durable.
func (d *simDisk) settle(n int) {
	for _, write := range d.loose[:n] {
		write(&d.synced)
	}
	d.loose = d.loose[n:]
}

// crash ends a life of the node and returns what the next one finds. When only
// the process dies the machine still has all that was written; when the power
// goes, some of it.
func (d *simDisk) crash(r *rand.Rand, power bool) {
	kept := len(d.loose)
	if power {
		kept = r.IntN(len(d.loose) + 1)
	}
	d.settle(kept)
	d.loose, d.prev = nil, d.synced.state
}

func (d *simDisk) release(uint64) error { return nil }
func (d *simDisk) close() error         { return nil }
