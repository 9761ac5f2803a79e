package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"runtime/metrics"
	"strings"
	"testing"

	"go.etcd.io/etcd/raft/v3/raftpb"
)

// wantThrifty fails if decoding takes much more memory than what it reads: a
// length or a count that was believed.
func wantThrifty(t *testing.T, input []byte, decode func()) {
	t.Helper()
	limit := uint64(64<<10 + 16*len(input))
	least := uint64(math.MaxUint64)
	for range 3 { // the runtime allocates too, now and then
		before := allocatedBytes()
		decode()
		if least = min(least, allocatedBytes()-before); least <= limit {
			return
		}
	}
	t.Fatalf("decoding %d bytes takes %d of memory: %x", len(input), least, input[:min(len(input), 100)])
}

func allocatedBytes() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// FuzzDecodeBatch: an entry that decodes has the same commands when it is
// encoded again, in as many bytes at most, and there is no other way to read it.
// The bytes are also tried as commands, cut into pieces.
func FuzzDecodeBatch(f *testing.F) {
	f.Add(encodeBatch(nil), uint64(0), byte(0))
	f.Add(encodeBatch([]command{{origin: 1, seq: 2, data: []byte("a put")}, {origin: math.MaxUint64, seq: math.MaxUint64}}), uint64(300), byte(3))
	f.Add(encodeBatch([]command{{data: bytes.Repeat([]byte("x"), 300)}}), uint64(1)<<40, byte(255))
	f.Add([]byte{envelopeVersion, 1, 0x81, 0x80, 0}, uint64(0), byte(1)) // a count in more bytes than it needs
	f.Add(append(binary.AppendUvarint([]byte{envelopeVersion, 1}, 20_000), make([]byte, 20_000)...), uint64(0), byte(200))
	f.Add(binary.AppendUvarint([]byte{envelopeVersion, 1}, math.MaxUint64), uint64(0), byte(1))
	f.Add(append(binary.AppendUvarint([]byte{envelopeVersion}, math.MaxUint64), 0), uint64(0), byte(1))
	f.Add([]byte{envelopeVersion, 0, 0}, uint64(0), byte(1))
	f.Fuzz(func(t *testing.T, raw []byte, seq uint64, each byte) {
		var cmds []command
		var need uint64
		var err error
		wantThrifty(t, raw, func() { cmds, need, err = decodeBatch(raw) })
		if err == nil {
			for i := range cmds {
				cmds[i].level = need
			}
			again := encodeBatch(cmds)
			if len(again) > len(raw) {
				t.Fatalf("%x is encoded again as %x", raw, again)
			}
			wantBatch(t, again, cmds)
			if _, _, err := decodeBatch(append(bytes.Clone(raw), 0)); err == nil {
				t.Fatalf("%x with a byte more is accepted", raw)
			}
			if _, _, err := decodeBatch(raw[:len(raw)-1]); err == nil {
				t.Fatalf("%x with a byte less is accepted", raw)
			}
		}
		var pieces []command
		for i, left := uint64(0), raw; len(left) > 0 && i < batchCount; i++ {
			n := min(int(each), len(left))
			pieces = append(pieces, command{origin: seq ^ i, seq: seq + i, data: left[:n]})
			left = left[n:]
		}
		wantBatch(t, encodeBatch(pieces), pieces)
	})
}

func wantBatch(t *testing.T, raw []byte, cmds []command) {
	t.Helper()
	got, _, err := decodeBatch(raw)
	if err != nil || len(got) != len(cmds) {
		t.Fatalf("%x: %d commands (%v), want %d", raw, len(got), err, len(cmds))
	}
	for i, c := range cmds {
		if got[i].origin != c.origin || got[i].seq != c.seq || !bytes.Equal(got[i].data, c.data) {
			t.Fatalf("%x: command %d is %+v, want %+v", raw, i, got[i], c)
		}
	}
}

// fuzzTable is a table with a member of each kind.
func fuzzTable() *table {
	t := foundersTable(9, []Member{{ID: 1, Name: "a", PeerURL: "http://a:1", ClientURL: "http://a:2"}, {ID: math.MaxUint64, Name: "b", PeerURL: "http://b:1", ClientURL: "http://b:2"}})
	t.members[7] = Member{ID: 7, Name: "c", PeerURL: "http://c:1", ClientURL: "http://c:2", Learner: true, Promote: true}
	t.conf.Learners = []uint64{7}
	t.removed[3], t.removed[2] = true, true
	return t
}

// FuzzDecodeTable: a member table that decodes is the same table when it is
// encoded and decoded again.
func FuzzDecodeTable(f *testing.F) {
	raw, err := fuzzTable().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add([]byte(`{}`))
	f.Add([]byte(`null`))
	f.Add([]byte(`{"level":1,"cluster_id":"9","conf":{"voters":[1,1]},"members":[{"id":"1"},{"id":"01"},{}],"removed":["1","ffffffffffffffff"]}`))
	f.Add([]byte(`{"level":1,"cluster_id":"9","members":[{"id":"1","name":"\ud800"}],"removed":null}`))
	f.Add([]byte(`{"cluster_id":"0"}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		first, err := decodeTable(raw)
		if err != nil {
			return
		}
		once, err := first.encode()
		if err != nil {
			t.Fatalf("%q decodes, and does not encode: %v", raw, err)
		}
		second, err := decodeTable(once)
		if err != nil {
			t.Fatalf("%q decodes, and is encoded as %q: %v", raw, once, err)
		}
		if !sameTable(first, second) {
			t.Fatalf("%q is %+v, and %+v when it is encoded again", raw, first, second)
		}
		if twice, err := second.encode(); err != nil || !bytes.Equal(twice, once) {
			t.Fatalf("%q is encoded as %q and then as %q (%v)", raw, once, twice, err)
		}
	})
}

func sameTable(a, b *table) bool {
	return a.cluster == b.cluster && a.changed == b.changed && a.level == b.level && reflect.DeepEqual(a.members, b.members) && reflect.DeepEqual(a.removed, b.removed) &&
		reflect.DeepEqual(append([]uint64{}, a.conf.Voters...), append([]uint64{}, b.conf.Voters...)) &&
		reflect.DeepEqual(append([]uint64{}, a.conf.Learners...), append([]uint64{}, b.conf.Learners...))
}

// FuzzDecodeSnapshot: what a raft snapshot carries comes back in its two parts,
// wherever it is cut, and never takes memory.
func FuzzDecodeSnapshot(f *testing.F) {
	raw, err := fuzzTable().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(snapshotData{meta: raw, state: []byte("state")}.encode(), uint16(10))
	f.Add(snapshotData{}.encode(), uint16(0))
	f.Add(binary.AppendUvarint([]byte{snapshotFormat}, math.MaxUint64), uint16(1))
	f.Add([]byte{snapshotFormat, 0x80}, uint16(1))
	f.Fuzz(func(t *testing.T, raw []byte, at uint16) {
		same := func(a, b snapshotData) bool { return bytes.Equal(a.meta, b.meta) && bytes.Equal(a.state, b.state) }
		if d, err := decodeSnapshot(raw); err == nil {
			if again, err := decodeSnapshot(d.encode()); err != nil || !same(again, d) || len(d.encode()) > len(raw) {
				t.Fatalf("%x is %+v, and %+v when it is encoded again (%v)", raw, d, again, err)
			}
		}
		cut := int(at) % (len(raw) + 1)
		d := snapshotData{meta: raw[:cut], state: raw[cut:]}
		if again, err := decodeSnapshot(d.encode()); errors.Is(err, errSnapshotData) || !same(again, d) { // what is no table is refused then
			t.Fatalf("%+v came back as %+v (%v)", d, again, err)
		}
	})
}

// FuzzDecodeChange: a membership change that decodes and that a table takes is
// the same when it is encoded again, and leaves a table that can be encoded.
func FuzzDecodeChange(f *testing.F) {
	for _, c := range []change{
		{Origin: 1, Seq: 2, Op: opAdd, Member: Member{ID: 5, Name: "d", PeerURL: "http://d:1", ClientURL: "http://d:2"}, Number: 1},
		{Op: opUpdate, Member: Member{ID: 1, Name: "a", PeerURL: "http://e:1", ClientURL: "http://e:2"}, Number: 1},
		{Op: opPromote, Member: Member{ID: 7}, Number: 1},
		{Op: opRemove, Member: Member{ID: math.MaxUint64}, Number: 1},
		{Op: opRaise, Member: Member{ID: 1}, Level: 2, Number: 1},
		{Op: opRaise, Member: Member{ID: 1}, Level: math.MaxUint64, Number: 1},
		{Op: opAdd, Member: Member{ID: 3, Name: "d", PeerURL: "http://d:1", ClientURL: "http://d:2"}},
		{Op: opAdd, Member: Member{ID: 5, Name: strings.Repeat("d", nameBytesMax+1), PeerURL: "http://d:1", ClientURL: "http://d:2"}},
	} {
		cc, err := c.confChange()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint64(cc.NodeID), int32(cc.Type), cc.Context)
	}
	f.Add(uint64(0), int32(raftpb.ConfChangeAddNode), []byte(`{"op":"promote"}`))
	f.Add(uint64(1), int32(raftpb.ConfChangeRemoveNode), []byte(`{"op":"add","member":{"id":"1"}}`))
	f.Fuzz(func(t *testing.T, node uint64, kind int32, context []byte) {
		cc := raftpb.ConfChange{NodeID: node, Type: raftpb.ConfChangeType(kind), Context: context}
		raw, err := cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := decodeChange(raw)
		if err != nil {
			return
		}
		members := fuzzTable()
		if members.check(c) != nil {
			return
		}
		again, err := c.confChange()
		if err != nil {
			t.Fatal(err)
		}
		if raw, err = again.Marshal(); err != nil {
			t.Fatal(err)
		}
		if second, _, err := decodeChange(raw); err != nil || second != c {
			t.Fatalf("%q is %+v, and %+v when it is encoded again (%v)", context, c, second, err)
		}
		members.apply(c, confAfter(members.conf, c))
		encoded, err := members.encode()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := decodeTable(encoded); err != nil || !sameTable(back, members) {
			t.Fatalf("after %+v the table is %+v, and comes back as %+v (%v)", c, members, back, err)
		}
	})
}
