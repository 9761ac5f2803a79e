package kvstore

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

func TestKey_Validate(t *testing.T) {
	t.Parallel()
	for key, ok := range map[Key]bool{
		"": false, "a": true, "a/../b//": true, "\xff\xfe": true, "a\x00b": false,
		Key(strings.Repeat("k", MaxKeyBytes)): true, Key(strings.Repeat("k", MaxKeyBytes+1)): false,
	} {
		if err := key.Validate(); (err == nil) != ok || err != nil && !errors.Is(err, ErrInvalidKey) {
			t.Errorf("%.20q: %v", key, err)
		}
	}
}

func TestDigest_Parse(t *testing.T) {
	t.Parallel()
	d := sumOf([]byte("x"))
	if got, err := ParseDigest(d.String()); err != nil || got != d {
		t.Fatalf("%s %v", got, err)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("g", 64), strings.Repeat("a", 65)} {
		if _, err := ParseDigest(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}

func TestRecord_RoundTrip(t *testing.T) {
	t.Parallel()
	metas := []Meta{
		{Key: "k", ContentType: DefaultContentType, PutID: "x", Time: time.Unix(-5, 3)},
		{Key: Key(strings.Repeat("k", MaxKeyBytes)), ContentType: "text/plain; charset=utf-8", PutID: strings.Repeat("0f", 16), Time: time.Unix(1<<33, 999)},
		{Key: "\xff", ContentType: strings.Repeat("a", 255), PutID: strings.Repeat("~", 64)},
		{Key: "upper hex is not packed", ContentType: "a/b", PutID: strings.Repeat("0F", 16)},
	}
	for i, m := range metas {
		value := bytes.Repeat([]byte{byte(i)}, i*1000)
		m.Size, m.SHA256, m.Time = int64(len(value)), sumOf(value), m.Time.UTC()
		header := appendHeader(nil, &m)
		record := testRecord(bodyInline, append(header, value...), 7)
		d, err := decodeRecord(record, 7)
		if err != nil {
			t.Fatal(err)
		}
		m.Revision = 7
		if i == 0 {
			m.Time = time.Unix(-5, 3).UTC()
		}
		if m.Time.IsZero() {
			continue // before 1678: does not fit nanoseconds, the proposer's clock never says it
		}
		if got := d.meta(7, Key(d.key)); got != m || !bytes.Equal(d.value, value) {
			t.Errorf("got %+v, want %+v", got, m)
		}
		if _, err := decodeRecord(record, 8); err == nil {
			t.Error("a record in another revision's place was accepted")
		}
		for bit := range len(record) * 8 {
			record[bit/8] ^= 1 << (bit % 8)
			if _, err := decodeRecord(record, 7); err == nil {
				t.Fatalf("bit %d flipped: accepted", bit)
			}
			record[bit/8] ^= 1 << (bit % 8)
			if bit > 4000 {
				break
			}
		}
	}
}

func TestChunk_EveryBitCounts(t *testing.T) {
	t.Parallel()
	id := uploadID{1}
	ref := bodies.Ref{Digest: bodies.Digest(sumOf([]byte("some bytes"))), Size: 10}
	stored := encodeChunkRow(makeChunkKey(id, 5), ref)
	if got, err := decodeChunkRow(stored, makeChunkKey(id, 5)); err != nil || got != ref || len(stored) != chunkRowBytes {
		t.Fatalf("%+v %v", got, err)
	}
	for _, size := range []int{0, bodies.MaxBytes + 1} {
		row := encodeChunkRow(makeChunkKey(id, 5), bodies.Ref{Digest: ref.Digest, Size: size})
		if _, err := decodeChunkRow(row, makeChunkKey(id, 5)); err == nil {
			t.Errorf("a chunk of %d bytes was accepted", size)
		}
	}
	if _, err := decodeChunkRow(stored, makeChunkKey(id, 6)); err == nil {
		t.Fatal("a chunk in another's place was accepted")
	}
	for bit := range len(stored) * 8 {
		stored[bit/8] ^= 1 << (bit % 8)
		if _, err := decodeChunkRow(stored, makeChunkKey(id, 5)); err == nil {
			t.Fatalf("bit %d flipped: accepted", bit)
		}
		stored[bit/8] ^= 1 << (bit % 8)
	}
}

// seeds are commands of every kind.
func seeds() [][]byte {
	now := time.Unix(1_700_000_000, 1)
	id, _ := newUploadID(now, bytes.NewReader(make([]byte, 8)))
	m := Meta{Key: "key", Size: ChunkBytes + 1, ContentType: "a/b", Time: now, PutID: "p"}
	return [][]byte{
		testPut("key", "p", "", []byte("value"), now),
		testPut("key", strings.Repeat("ab", 16), "text/plain", nil, now),
		testChunk(id, 9, []byte("chunk"), now),
		sealCommand(&m, id, 2),
		abandonCommand(id),
		openCommand(id, now),
		testPut("key", "p", "", make([]byte, BodyBytesMin), now),
		testPutBy("key", "alice", mustMeta(map[string]string{"a": "", "b-1": "two words"}), now),
	}
}

// encodeAgain encodes a decoded command.
func encodeAgain(cmd *command) []byte {
	switch cmd.kind {
	case commandPut:
		m := cmd.body.meta(0, Key(cmd.body.key))
		b := putCommandHeader(&m)
		return append(b, cmd.body.value...)
	case commandRefer:
		m := cmd.body.meta(0, Key(cmd.body.key))
		return referCommand(&m)
	case commandSeal:
		m := cmd.body.meta(0, Key(cmd.body.key))
		return sealCommand(&m, cmd.upload, cmd.body.chunks)
	case commandChunk:
		return chunkCommand(cmd.upload, cmd.number, time.Unix(0, cmd.time), cmd.ref)
	case commandOpen:
		return openCommand(cmd.upload, time.Unix(0, cmd.time))
	}
	return abandonCommand(cmd.upload)
}

func TestSnapshot_OneEncodingOnly(t *testing.T) {
	t.Parallel()
	raw := encodeSnapshot(&snapshot{uploads: map[uploadID]*upload{{1}: newUpload(0), {2}: newUpload(0)}})
	if _, err := decodeSnapshot(raw); err != nil {
		t.Fatal(err)
	}
	each := (len(raw) - len(encodeSnapshot(&snapshot{}))) / 2
	first, second := raw[len(raw)-2*each:len(raw)-each], raw[len(raw)-each:]
	for what, uploads := range map[string][]byte{"in another order": slices.Concat(second, first), "twice the same": slices.Concat(first, first), "one of two": first} {
		if _, err := decodeSnapshot(slices.Concat(raw[:len(raw)-2*each], uploads)); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}

func TestCommand_TruncatedOrExtended(t *testing.T) {
	t.Parallel()
	for _, raw := range seeds() {
		for n := range len(raw) {
			if _, err := decodeCommand(raw[:n]); err == nil {
				t.Errorf("kind %d cut to %d of %d bytes was accepted", raw[1], n, len(raw))
			}
		}
		if _, err := decodeCommand(append(bytes.Clone(raw), 0)); err == nil {
			t.Errorf("kind %d with a byte more was accepted", raw[1])
		}
	}
}
