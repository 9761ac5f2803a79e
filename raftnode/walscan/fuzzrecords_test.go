package walscan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/wal/walpb"
)

// The steps of a log made up by the fuzzer; each is followed by its arguments.
const (
	stepEntry    = iota // index, term, bytes of data
	stepState           // term, commit
	stepSnapshot        // index, term
	stepRecord          // type, length, so many bytes: any record under a good checksum
	stepSegment         // index: a further segment begins
	stepSkip            // a sequence number is left out
	stepBadSum          // the next record has another checksum than its data
	stepRaw             // length, so many bytes
	stepZeros           // how many
	stepCount
)

// forger writes segments with good checksums and whatever else.
type forger struct {
	script []byte
	crc    uint32
	seq    uint64
	wrong  bool
	tr     tree
	name   string
}

func (g *forger) byte() uint64 {
	if len(g.script) == 0 {
		return 0
	}
	b := g.script[0]
	g.script = g.script[1:]
	return uint64(b)
}

func (g *forger) take(n uint64) []byte {
	n = min(n, uint64(len(g.script)))
	b := g.script[:n]
	g.script = g.script[n:]
	return b
}

// segment begins a segment as etcd does.
func (g *forger) segment(index uint64) {
	g.name = segment{seq: g.seq, index: index}.name()
	g.seq++
	g.frame(binary.AppendUvarint(append(binary.AppendUvarint([]byte{typeTag}, crcType), crcTag), uint64(g.crc)))
	g.record(metadataType, []byte("metadata"))
}

func (g *forger) record(typ uint64, data []byte) {
	g.crc = crc32.Update(g.crc, castagnoli, data)
	sum := g.crc
	if g.wrong {
		sum, g.wrong = sum+1, false
	}
	g.frame(append(appendPrefix(nil, typ, sum, len(data)), data...))
}

func (g *forger) frame(body []byte) {
	header, pad := uint64(len(body)), (8-len(body)%8)%8
	if pad > 0 {
		header |= uint64(0x80|pad) << 56
	}
	b := binary.LittleEndian.AppendUint64(g.tr[g.name], header)
	g.tr[g.name] = append(append(b, body...), make([]byte, pad)...)
}

// log carries out the script.
func (g *forger) log(t *testing.T) {
	t.Helper()
	marshal := func(m interface{ Marshal() ([]byte, error) }) []byte {
		b, err := m.Marshal()
		must(t, err)
		return b
	}
	for len(g.script) > 0 {
		switch g.byte() % stepCount {
		case stepEntry:
			g.record(entryType, marshal(&raftpb.Entry{Index: g.byte(), Term: g.byte(), Data: make([]byte, g.byte())}))
		case stepState:
			g.record(stateType, marshal(&raftpb.HardState{Term: g.byte(), Commit: g.byte(), Vote: vote}))
		case stepSnapshot:
			g.record(snapshotType, marshal(&walpb.Snapshot{Index: g.byte(), Term: g.byte(), ConfState: &raftpb.ConfState{Voters: []uint64{vote}}}))
		case stepRecord:
			g.record(g.byte(), g.take(g.byte()))
		case stepSegment:
			g.segment(g.byte())
		case stepSkip:
			g.seq++
		case stepBadSum:
			g.wrong = true
		case stepRaw:
			g.tr[g.name] = append(g.tr[g.name], g.take(g.byte())...)
		case stepZeros:
			g.tr[g.name] = append(g.tr[g.name], make([]byte, g.byte())...)
		}
	}
}

// FuzzCheckRecords: whatever records a log is made of, under good checksums or
// not, Check ends without a panic. What it lets through is repaired to a log
// with the same entries, over which etcd does not panic either.
func FuzzCheckRecords(f *testing.F) {
	f.Add([]byte{}, uint8(0), uint8(0))
	f.Add([]byte{stepSnapshot, 0, 0, stepEntry, 1, 1, 50, stepState, 1, 0, stepEntry, 2, 1, 10, stepState, 1, 1}, uint8(0), uint8(0))
	f.Add([]byte{stepSnapshot, 0, 0, stepEntry, 1, 1, 5, stepEntry, 2, 1, 5, stepEntry, 1, 2, 5, stepState, 2, 1, stepSegment, 2, stepEntry, 2, 2, 9}, uint8(0), uint8(0))
	f.Add([]byte{stepSnapshot, 90, 3, stepEntry, 91, 3, 9, stepState, 3, 90}, uint8(4), uint8(91))
	f.Add([]byte{stepSnapshot, 0, 0, stepEntry, 1, 1, 50, stepBadSum, stepEntry, 2, 1, 200}, uint8(0), uint8(0))
	f.Add([]byte{stepSnapshot, 0, 0, stepEntry, 1, 1, 50, stepRaw, 20, 0x40, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0x10, 5, 0x1a, 60, 1, 1, 1, 1, 1, 1, stepZeros, 255, stepZeros, 255}, uint8(0), uint8(0))
	f.Add([]byte{stepRaw, 8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0}, uint8(0), uint8(0))
	f.Add([]byte{stepRecord, entryType, 3, 8, 1, 2, stepRecord, 9, 2, 1, 1, stepRecord, crcType, 0}, uint8(0), uint8(0))
	f.Add([]byte{stepEntry, 1, 1, 5, stepSkip, stepSegment, 2, stepEntry, 3, 1, 5}, uint8(0), uint8(0))
	f.Fuzz(func(t *testing.T, script []byte, seq, index uint8) {
		g := &forger{script: script, seq: uint64(seq), tr: tree{}}
		g.segment(uint64(index))
		g.log(t)
		dir := g.tr.store(t)
		r, err := Check(dir)
		if err != nil {
			if !errors.As(err, new(*DamageError)) {
				t.Fatalf("not a DamageError: %v", err)
			}
			return
		}
		must(t, Repair(r))
		again, err := Check(dir)
		must(t, err)
		if again.Torn || again.LastIndex != r.LastIndex || again.Entries != r.Entries || again.Commit != r.Commit {
			t.Fatalf("repaired, the log has %+v, before it had %+v", again, r)
		}
		wantNoPanic(t, dir, r)
	})
}

// wantNoPanic opens the log with etcd, which may refuse it: records can be good,
// and say nothing that a node ever wrote. If it does not, it has what r says.
func wantNoPanic(t *testing.T, dir string, r Report) {
	t.Helper()
	defer func() {
		if cause := recover(); cause != nil {
			t.Fatalf("etcd panics over a log that has %+v: %v", r, cause)
		}
	}()
	if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("%016x-%016x.wal", 0, 0))); err != nil {
		return // the log's start was purged
	}
	ents, err := readAll(t, dir)
	if err == nil && uint64(len(ents)) != r.LastIndex {
		t.Fatalf("etcd reads %d entries, the report says %+v", len(ents), r)
	}
}
