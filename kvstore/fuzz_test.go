package kvstore

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
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

// A command that decodes has exactly one encoding, so equal states have equal
// digests; arbitrary bytes never panic and never take memory that is not theirs.
func FuzzDecodeCommand(f *testing.F) {
	for _, s := range seeds() {
		f.Add(s)
		f.Add(s[:len(s)-1])
	}
	huge := Meta{Key: "k", Size: math.MaxInt64, ContentType: "a/b", Time: time.Unix(0, -1), PutID: "p"}
	f.Add(sealCommand(&huge, uploadID{1}, math.MaxUint32))
	f.Add(binary.AppendUvarint(append(appendCommandHead(nil, commandPut), recordPut<<shapeTypeBit|shapeMeta, 0, 0, 0, 0, 0, 0, 0, 0), math.MaxUint64))
	f.Add([]byte{commandLevel + 1, byte(commandPut), 0, 0})
	f.Add([]byte{commandLevel, 77, 0, 0})
	f.Add(testChunk(uploadID{1}, chunksMax, []byte("beyond the last"), time.Unix(0, 0)))
	f.Add(chunkCommand(uploadID{1}, 0, time.Unix(0, 0), bodies.Ref{Size: bodies.MaxBytes + 1}))
	for _, size := range []int64{0, BodyBytesMin - 1, ChunkBytes, ChunkBytes + 1} {
		f.Add(referCommand(&Meta{Key: "k", Size: size, ContentType: "a/b", Time: time.Unix(0, 1), PutID: "p"}))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var cmd command
		var err error
		wantThrifty(t, raw, func() { cmd, err = decodeCommand(raw) })
		if err != nil {
			if _, later := errors.AsType[*level.LaterError](err); later == errors.Is(err, errMalformedCommand) {
				t.Fatalf("error %v", err)
			}
			return
		}
		if again := encodeAgain(&cmd); !bytes.Equal(again, raw) {
			t.Fatalf("%x decodes, but encodes as %x", raw, again)
		}
		ref, refers := (*Store)(nil).Body(raw)
		if refers != (cmd.kind == commandChunk || cmd.kind == commandRefer) || ref != cmd.ref {
			t.Fatalf("%x: it refers to %+v, %v", raw, ref, refers)
		}
		if cmd.kind == commandPut {
			if err := cmd.checkValue(); (err == nil) != (sumOf(cmd.body.value) == cmd.body.sum) {
				t.Fatalf("%x: the check of its value says %v", raw, err)
			}
		}
	})
}

// wantBitCounts fails if stored is accepted with one of its bits flipped, or
// with its last byte missing.
func wantBitCounts(t *testing.T, stored []byte, bit uint32, accepted func(b []byte) bool) {
	t.Helper()
	bit %= uint32(len(stored) * 8)
	stored = bytes.Clone(stored)
	stored[bit/8] ^= 1 << (bit % 8)
	if accepted(stored) {
		t.Fatalf("accepted with bit %d flipped: %x", bit, stored)
	}
	stored[bit/8] ^= 1 << (bit % 8)
	if accepted(stored[:len(stored)-1]) {
		t.Fatalf("accepted without its last byte: %x", stored)
	}
}

// A record that decodes is encoded as it was, at its own revision, and no bit
// of it can change. The fuzzer's bytes are tried as a whole record and as what
// its checksum covers.
func FuzzDecodeRecord(f *testing.F) {
	for _, s := range seeds() {
		body, sets := map[commandKind]bodyKind{commandPut: bodyInline, commandRefer: bodyReferred, commandSeal: bodyChunked}[commandKind(s[1])]
		if sets {
			record := testRecord(body, s[commandHeadBytes:], 7)
			f.Add(record, uint64(7), uint32(9))
			f.Add(record, uint64(1)<<63, uint32(len(record)*8-1))
		}
	}
	f.Add([]byte("too short"), uint64(1), uint32(0))
	f.Fuzz(func(t *testing.T, raw []byte, at uint64, bit uint32) {
		rev := Revision(at)
		checkSealed(t, raw, rev, bit)
		if len(raw) >= recordPrefixBytes {
			sealed := bytes.Clone(raw)
			sealRecord(sealed, rev)
			checkSealed(t, sealed, rev, bit)
		}
	})
}

func checkSealed(t *testing.T, record []byte, rev Revision, bit uint32) {
	t.Helper()
	var d body
	var err error
	wantThrifty(t, record, func() { d, err = decodeRecord(record, rev) })
	if err != nil {
		return
	}
	m := d.meta(rev, Key(d.key))
	again := appendHeader(nil, &m)
	if d.kind == bodyChunked {
		again = appendPlace(again, d.upload, d.chunks)
	}
	again = testRecord(d.kind, append(again, d.value...), rev)
	if !bytes.Equal(again, record) {
		t.Fatalf("%x decodes as %+v and is sealed again as %x", record, m, again)
	}
	if err := m.Key.Validate(); err != nil {
		t.Fatalf("%x: %v", record, err)
	}
	wantBitCounts(t, record, bit, func(b []byte) bool { _, err := decodeRecord(b, rev); return err == nil })
	other := rev ^ 1<<(bit%64)
	if _, err := decodeRecord(record, other); err == nil {
		t.Fatalf("the record of revision %d is accepted as that of %d: %x", rev, other, record)
	}
}

// The same for the rows of chunks: key is of the upload and the number.
func FuzzDecodeChunkRow(f *testing.F) {
	key := makeChunkKey(uploadID{1, 2}, 3)
	row := encodeChunkRow(key, bodies.Ref{Digest: bodies.Digest{5}, Size: 10})
	f.Add(key[:], row, uint32(12))
	f.Add(key[:], row[:statePrefixBytes], uint32(0))
	f.Add(key[:], encodeChunkRow(key, bodies.Ref{Size: bodies.MaxBytes + 1}), uint32(40_001))
	f.Fuzz(func(t *testing.T, keyBytes, raw []byte, bit uint32) {
		var key chunkKey
		copy(key[:], keyBytes)
		if again := makeChunkKey(key.upload(), key.number()); again != key {
			t.Fatalf("key %x is made again as %x", key, again)
		}
		for range 2 {
			if ref, err := decodeChunkRow(raw, key); err == nil {
				if again := encodeChunkRow(key, ref); !bytes.Equal(again, raw) {
					t.Fatalf("%x decodes and is encoded again as %x", raw, again)
				}
				wantBitCounts(t, raw, bit, func(b []byte) bool { _, err := decodeChunkRow(b, key); return err == nil })
				other := key
				other[bit/8%chunkKeyBytes] ^= 1 << (bit % 8)
				if _, err := decodeChunkRow(raw, other); err == nil {
					t.Fatalf("the chunk of %x is accepted as that of %x", key, other)
				}
			}
			if len(raw) < statePrefixBytes {
				return
			}
			raw = bytes.Clone(raw)
			sealRow(raw, key)
		}
	})
}

// What a store keeps about itself, and what a snapshot says: what decodes
// encodes to the same bytes. item makes the checksum of a state right.
func FuzzDecodeState(f *testing.F) {
	id := uploadID{4}
	u := newUpload(5)
	u.add([]byte("some bytes"), 6)
	s := &snapshot{appliedState: appliedState{index: 1, term: 2, derived: testDerived(3)}, lineage: testHistory(), uploads: map[uploadID]*upload{id: u, {5}: newUpload(-1)}}
	f.Add(encodeSnapshot(s))
	f.Add(encodeApplied(&s.appliedState))
	f.Add(encodeLineage(&s.lineage))
	f.Add(encodeUpload(id, u))
	f.Add(encodeProgress(&progress{base: mark{rev: 1}, last: testDerived(2), done: true}))
	pulled := encodeProgress(&progress{base: mark{rev: 1}, last: testDerived(2)})
	pulled[len(pulled)-1] = '0' // neither done nor not
	f.Add(pulled)
	beyond := binary.AppendUvarint(make([]byte, statePrefixBytes+8), chunksMax*ChunkBytes+1) // more than all chunks
	f.Add(append(beyond, make([]byte, chainBytes+1)...))
	many := encodeSnapshot(&snapshot{})
	f.Add(binary.AppendUvarint(many[:len(many)-1], openUploadsMax)) // and none of them follows
	f.Fuzz(func(t *testing.T, raw []byte) {
		checkSnapshot(t, raw)
		if len(raw) < statePrefixBytes {
			return
		}
		same := func(what string, encoded []byte, err error, encode func() []byte) {
			t.Helper()
			if err != nil {
				return
			}
			if again := encode(); !bytes.Equal(again, encoded) {
				t.Fatalf("%s %x decodes, but encodes as %x", what, encoded, again)
			}
		}
		encoded := func(format byte, key []byte) []byte { return encodeState(format, key, bytes.Clone(raw)) }
		b := encoded(appliedFormat, keyApplied)
		p, err := decodeApplied(b)
		same("position", b, err, func() []byte { return encodeApplied(&p) })
		b = encoded(uploadFormat, id[:])
		u, err := decodeUpload(id, b)
		same("upload", b, err, func() []byte { return encodeUpload(id, u) })
		if c, err := openState(stateFormat, keyHistory, encoded(stateFormat, keyHistory)); err == nil {
			h := readHistory(&c, 1<<40)
			same("history", encoded(stateFormat, keyHistory), c.end(), func() []byte { return encodeLineage(&h) })
		}
		b = encoded(stateFormat, keyMeta)
		meta, err := decodeMeta(b)
		same("meta", b, err, func() []byte { return encodeMeta(meta) })
		b = encoded(progressFormat, keyProgress)
		pr, err := decodeProgress(b)
		same("progress", b, err, func() []byte { return encodeProgress(&pr) })
	})
}

func checkSnapshot(t *testing.T, raw []byte) {
	t.Helper()
	var s *snapshot
	var err error
	wantThrifty(t, raw, func() { s, err = decodeSnapshot(raw) })
	if err != nil {
		return
	}
	if again := encodeSnapshot(s); !bytes.Equal(again, raw) {
		t.Fatalf("snapshot %x decodes, but encodes as %x", raw, again)
	}
}

// Frames that are read are written as they were; the fuzzer's bytes are tried
// as a stream and as the payload of an item.
func FuzzReadFrame(f *testing.F) {
	f.Add(appendItem(nil, itemRecord, []byte("prefix"), []byte("body")), byte(itemEnd))
	f.Add(appendItem(nil, itemEnd, nil, nil), byte(itemChunk))
	f.Add([]byte{'r', 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}, byte(0))
	f.Fuzz(func(t *testing.T, raw []byte, kind byte) {
		got, payload, err := readItem(bufio.NewReader(bytes.NewReader(raw)), new(itemRoom))
		switch {
		case err == nil:
			if again := appendItem(nil, got, nil, payload); !bytes.HasPrefix(raw, again) {
				t.Fatalf("%x is read, but written as %x", raw, again)
			}
		case !errors.Is(err, errSnapshotBody) && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Fatalf("%x: error %v", raw, err)
		}
		split := int(kind) % (len(raw) + 1)
		item := appendItem(nil, itemKind(kind), raw[:split], raw[split:])
		if got, payload, err = readItem(bufio.NewReader(bytes.NewReader(item)), new(itemRoom)); err != nil || got != itemKind(kind) || !bytes.Equal(payload, raw) {
			t.Fatalf("%x came back as %x of kind %d (%v)", raw, payload, got, err)
		}
	})
}

// Whatever another member asks for, a sender goes on. What it sends is whole
// and sound, or it says that it failed.
func FuzzServe(f *testing.F) {
	for _, q := range []query{
		{kind: queryRecords, index: 1, after: 0, through: 3},
		{kind: queryRecords, index: 2, after: 2, through: 1 << 60, chunk: 1},
		{kind: queryChunks, index: 1, upload: uploadID([]byte("upload 000000003"))},
		{kind: queryChunks, index: 1, chunk: math.MaxUint32},
	} {
		f.Add(q.String())
	}
	f.Add("kind=records&index=1&chunk=0&after=18446744073709551615&through=1")
	f.Add("kind=chunks&index=1&chunk=0&upload=%zz")
	fixtures := stageFixtures(f)
	f.Fuzz(func(t *testing.T, raw string) {
		s := fixtures[0].sender
		var out bytes.Buffer
		err := s.Serve(t.Context(), raw, &out)
		if fatal := s.err(); fatal != nil {
			t.Fatalf("query %q ends the store: %v", raw, fatal)
		}
		if q, perr := parseQuery(raw); perr == nil {
			if again, err := parseQuery(q.String()); err != nil || *again != *q {
				t.Fatalf("query %q: %+v came back as %+v (%v)", raw, q, again, err)
			}
		} else if err == nil {
			t.Fatalf("query %q was served, though %v", raw, perr)
		}
		if err != nil {
			if out.Len() > 0 {
				t.Fatalf("query %q: %v, after %d bytes", raw, err, out.Len())
			}
			return
		}
		items, whole := itemsOf(t, out.Bytes())
		if !whole {
			t.Fatalf("query %q: the stream has no end", raw)
		}
		for _, fr := range items {
			if !fr.sound() {
				t.Fatalf("query %q: item %c %x is not sound", raw, fr.kind, fr.payload)
			}
		}
	})
}
