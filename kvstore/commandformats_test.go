package kvstore

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// What is in logs and histories must be read for ever as it was written: a command
// whose bytes change here needs a level of its own.
func TestFormats_AreFrozen(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0x0102030405060708)
	id := uploadID{0xa0, 0xa1, 15: 0xaf}
	plain := Meta{Key: "key", Size: 2, SHA256: sumOf([]byte("hi")), ContentType: "text/plain", Time: now, PutID: strings.Repeat("0f", 16)}
	full := plain
	full.By, full.UserMeta = "alice", mustMeta(map[string]string{"b": "2", "a": "one"})
	full.ContentType, full.PutID = "x/y", "mine"
	large := full
	large.Size = ChunkBytes + 1
	one := full
	one.Size = BodyBytesMin
	put := func(m *Meta) []byte {
		cmd := putCommandHeader(m)
		return append(cmd, "hi"...)
	}
	const sum = " 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4"
	const fullHead = " 0b 0102030405060708 05616c696365 0a0161036f6e6501620132 046d696e65"
	for what, c := range map[string]struct {
		cmd  []byte
		want string
	}{
		"put":                 {put(&plain), "01 01 00 00 08 0102030405060708 900f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f 02" + sum + " 03 036b6579 6869"},
		"put with everything": {put(&full), "01 01 00 00" + fullHead + " 02" + sum + " 22782f79 036b6579 6869"},
		"seal":                {sealCommand(&large, id, 2), "01 03 00 00" + fullHead + " 818040" + sum + " 22782f79 036b6579 a0a100000000000000000000000000af 02"},
		"chunk":               {testChunk(id, 1, []byte("hi"), now), "01 02 00 00 a0a100000000000000000000000000af 00000001 0102030405060708 00000002" + sum},
		"refer":               {referCommand(&one), "01 06 00 00" + fullHead + " 808001" + sum + " 22782f79 036b6579"},
		"abandon":             {abandonCommand(id), "01 04 00 00 a0a100000000000000000000000000af"},
		"open":                {openCommand(id, now), "01 05 00 00 a0a100000000000000000000000000af 0102030405060708"},
	} {
		if got := hex.EncodeToString(c.cmd); got != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%s is %s, want %s", what, got, c.want)
		}
		cmd, err := decodeCommand(c.cmd)
		if err != nil || !bytes.Equal(encodeAgain(&cmd), c.cmd) {
			t.Errorf("%s: %v", what, err)
		}
	}
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	if _, err := applyTo(s, 1, 1, [][]byte{put(&plain)}, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := hex.EncodeToString(s.pending[0].record), "02 9a7865df"+hex.EncodeToString(put(&plain)[commandHeadBytes:]); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("its record is %s, want %s", got, want)
	}
}

// A put that says nothing of who puts, and no metadata, costs what it did before
// there was any.
func TestRecord_PlainPutCostsNoByteMore(t *testing.T) {
	t.Parallel()
	id := strings.Repeat("0f", 16)
	for _, c := range []struct {
		keyBytes    int
		id, ct      string
		value, want int
	}{
		{1, "x", "", 0, 52}, {21, id, "", 256, 344}, {32, id, "x/" + strings.Repeat("y", 23), 256, 380},
		{MaxKeyBytes, strings.Repeat("~", 64), strings.Repeat("a", 100), 1000, 2240}, {1, id, "x/y", ChunkBytes, 72},
		{32, id, "text/plain; charset=utf-8", 256, 380 - 25}, // and a common content type less
	} {
		s := mustOpen(t, newMemDisks(), StoreConfig{})
		cmd := testPut(Key(strings.Repeat("k", c.keyBytes)), c.id, c.ct, make([]byte, c.value), time.Unix(1_700_000_000, 0))
		if _, err := applyTo(s, 1, 1, [][]byte{cmd}, nil); err != nil {
			t.Fatal(err)
		}
		if got := len(s.pending[0].record); got != c.want {
			t.Errorf("%+v: its record has %d bytes", c, got)
		}
	}
}

// Every put of every member goes through these.
func TestCommand_PlainPutAllocatesNothingMore(t *testing.T) {
	m := Meta{Key: "some/key", Size: 256, ContentType: "application/json", Time: time.Unix(1, 0), PutID: strings.Repeat("0f", 16)}
	value := make([]byte, m.Size)
	m.SHA256 = sumOf(value)
	header := putCommandHeader(&m)
	cmd := append(header, value...)
	decoded, err := decodeCommand(cmd)
	if err != nil {
		t.Fatal(err)
	}
	long := make([]byte, 1000)
	for what, c := range map[string]struct {
		do   func()
		want float64
	}{
		"encode":    {func() { b := putCommandHeader(&m); _ = append(b, value...) }, 1},
		"decode":    {func() { _, _ = decodeCommand(cmd) }, 0},
		"leaf":      {func() { _ = leafOf(decoded.body.header) }, 0},
		"long leaf": {func() { _ = leafOf(long) }, 0},
	} {
		if got := testing.AllocsPerRun(100, c.do); got > c.want {
			t.Errorf("%s: %v allocations, want %v", what, got, c.want)
		}
	}
}

// A leaf is that of RFC 6962, however long its record is.
func TestLeafOf(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 510, 511, 512, 513, 5000} {
		header := bytes.Repeat([]byte{7}, n)
		if got := leafOf(header); got != sumOf(append([]byte{0}, header...)) {
			t.Errorf("%d bytes: %s", n, got)
		}
	}
}

func wantLater(t *testing.T, what string, err error, needed uint64) {
	t.Helper()
	later, ok := errors.AsType[*level.LaterError](err)
	if !ok || later.Level != needed || later.Known != level.Highest || errors.Is(err, errMalformedCommand) {
		t.Errorf("%s: %v, want that a later version wrote it, of level %d", what, err, needed)
	}
}

// laterCommands are what this program cannot know, by the level that they tell.
func laterCommands() map[string]struct {
	raw    []byte
	needed uint64
} {
	type later = struct {
		raw    []byte
		needed uint64
	}
	return map[string]later{
		"the next level":           {[]byte{level.Highest + 1, byte(commandPut), 0, 0}, level.Highest + 1},
		"a high level, alone":      {[]byte{0x80, 0x80, 0x01}, 1 << 14},
		"a kind of today's level":  {[]byte{level.Highest, 7, 0, 0}, level.Highest},
		"kind 0":                   {[]byte{level.Highest, 0, 0, 0}, level.Highest},
		"a kind with another tail": {[]byte{level.Highest, 200}, level.Highest},
	}
}

// An entry with a command of a later version ends the store with a sentence, and
// nothing of the entry is applied. A program that knows it goes on there.
func TestStore_Apply_LaterCommandEndsTheStore(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	for what, c := range laterCommands() {
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		apply := func(index uint64, cmds ...[]byte) error {
			_, err := applyTo(s, index, 1, cmds, fmt.Appendf(nil, "meta %d", index))
			return err
		}
		if err := errors.Join(apply(1, testPut("one", "id", "", nil, now)), s.Commit()); err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { ran <- s.Run(ctx) }()
		err := apply(7, testPut("two", "id", "", nil, now), c.raw, testChunk(uploadID{1}, 0, []byte("x"), now))
		wantLater(t, what, err, c.needed)
		if !strings.Contains(fmt.Sprint(err), "log entry 7 was written by a later version") {
			t.Errorf("%s: %v", what, err)
		}
		if err == nil {
			t.Fatalf("%s: it goes on", what)
		}
		if rerr := <-ran; rerr != err {
			t.Errorf("%s: Run: %v", what, rerr)
		}
		if st := s.Stats(); st.AppliedIndex != 1 || st.Revision != 1 || len(s.openUploads()) != 0 {
			t.Errorf("%s: it is at %+v", what, st)
		}
		if _, gerr := s.Get("one"); gerr != err {
			t.Errorf("%s: a read says %v", what, gerr)
		}
		s = mustOpen(t, d, StoreConfig{})
		if index, _, meta, _, err := s.Durable(); err != nil || index != 1 || string(meta) != "meta 1" {
			t.Errorf("%s: at entry %d with %q (%v)", what, index, meta, err)
		}
		if err := apply(7, testPut("two", "id", "", nil, now)); err != nil || s.Stats().Revision != 2 {
			t.Errorf("%s: it does not go on: %v", what, err)
		}
	}
}

// A command of a kind that is known, and that breaks its rules, is refused alike
// everywhere, and stops nobody.
func TestStore_Apply_MalformedCommandStopsNobody(t *testing.T) {
	t.Parallel()
	sound := testPut("k", "id", "", []byte("v"), time.Unix(1, 0))
	with := func(at int, b ...byte) []byte {
		return append(append(bytes.Clone(sound[:at]), b...), sound[at+1:]...)
	}
	m := Meta{Key: "k", Size: BodyBytesMin, SHA256: sumOf(make([]byte, BodyBytesMin)), ContentType: "a/b", Time: time.Unix(1, 0), PutID: "id"}
	largePut := putCommandHeader(&m)
	largePut = append(largePut, make([]byte, BodyBytesMin)...)
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	index := uint64(0)
	for what, raw := range map[string][]byte{
		"nothing": {}, "no kind": {commandLevel}, "no sequence": {commandLevel, byte(commandAbandon)},
		"no access revision": {commandLevel, byte(commandAbandon), 0}, "no upload": {commandLevel, byte(commandAbandon), 0, 0},
		"level 0": with(0, 0), "level 0 of no kind": {0, 0, 0, 0},
		"a level that is not in its shortest form": with(0, 0x81, 0),
		"a level without end":                      bytes.Repeat([]byte{0xff}, 20),
		"another sequence":                         with(2, 1),
		"a long sequence":                          with(2, 0x80, 0),
		"another access revision":                  with(3, 1),
		"a record without a type":                  with(4, 0),
		"a record of a later type":                 with(4, 2<<shapeTypeBit),
		"a record of a much later type":            with(4, 0x80, 0x80, 0x04),
		"a record of another sequence":             with(4, recordPut<<shapeTypeBit|shapeSequence, 9),
		"a record with sequence 0 spelled out":     with(4, recordPut<<shapeTypeBit|shapeSequence, 0),
		"nobody spelled out":                       append(append(with(4, recordPut<<shapeTypeBit|shapeBy)[:13:13], 0), sound[13:]...),
		"a seal that is a put":                     with(1, byte(commandSeal)),
		"a put that is to refer":                   largePut,
		"a put that refers, and is small":          referCommand(&Meta{Key: "k", Size: BodyBytesMin - 1, ContentType: "a/b", Time: time.Unix(1, 0), PutID: "id"}),
		"a put that refers, and is too large":      referCommand(&Meta{Key: "k", Size: ChunkBytes + 1, ContentType: "a/b", Time: time.Unix(1, 0), PutID: "id"}),
		"a put that refers, with its value":        append(testPut("k", "id", "", make([]byte, BodyBytesMin), time.Unix(1, 0)), 0),
		"a chunk of nothing":                       chunkCommand(uploadID{1}, 0, time.Unix(1, 0), bodies.Ref{}),
		"a chunk that is too large":                chunkCommand(uploadID{1}, 0, time.Unix(1, 0), bodies.Ref{Size: ChunkBytes + 1}),
		"an open with a byte more":                 append(openCommand(uploadID{1}, time.Unix(1, 0)), 0),
		"an open without its time":                 openCommand(uploadID{1}, time.Unix(1, 0))[:commandHeadBytes+16],
	} {
		index++
		results, err := applyTo(s, index, 1, [][]byte{raw}, nil)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if err, _ := results[0].(error); !errors.Is(err, errMalformedCommand) {
			t.Errorf("%s: %v", what, results[0])
		}
		if result, decided, err := s.Resolve(raw); err != nil || !decided || fmt.Sprint(result) != fmt.Sprint(results[0]) {
			t.Errorf("%s: later it is %v, %v (%v)", what, result, decided, err)
		}
	}
	if s.Stats().Revision != 0 {
		t.Error("something was set")
	}
}

// Whoever proposes or forwards a command asks for its level first.
func TestStore_Level(t *testing.T) {
	t.Parallel()
	s := mustOpen(t, newMemDisks(), StoreConfig{})
	for _, raw := range seeds() {
		if needed, err := s.Level(raw); err != nil || needed != 1 {
			t.Errorf("kind %d: level %d, %v", raw[1], needed, err)
		}
	}
	for what, c := range laterCommands() {
		needed, err := s.Level(c.raw)
		if needed != c.needed {
			t.Errorf("%s: level %d, want %d", what, needed, c.needed)
		}
		wantLater(t, what, err, c.needed)
		_, decided, err := s.Resolve(c.raw)
		wantLater(t, what, err, c.needed)
		if decided || s.err() != nil {
			t.Errorf("%s: a question ended the store, or was decided", what)
		}
	}
	for _, raw := range [][]byte{nil, {0}, {0, 1, 0, 0}, {1}, {0x81, 0, 1, 0, 0}} {
		if _, err := s.Level(raw); !errors.Is(err, errMalformedCommand) {
			t.Errorf("%x: %v", raw, err)
		}
	}
}

// A record of a later version is not damage: the node must not be replaced, but be
// given that version.
func TestStore_LaterRecordIsNoDamage(t *testing.T) {
	t.Parallel()
	m := Meta{Key: "k", SHA256: sumOf(nil), Time: time.Unix(1, 0), PutID: "id"}
	sound := appendHeader(nil, &m)
	with := func(shape ...byte) []byte { return append(shape, sound[1:]...) }
	for what, c := range map[string]struct {
		kind  bodyKind
		body  []byte
		later bool
	}{
		"sound":                {bodyInline, sound, false},
		"a stub":               {bodyStub, sound, true},
		"a leaf":               {bodyLeaf, make([]byte, 32), true},
		"another, still later": {bodyLast, []byte{1}, true},
		"another type":         {bodyInline, with(2 << shapeTypeBit), true},
		"a type of two bytes":  {bodyInline, with(0x80, 0x01), true},
		"another sequence":     {bodyInline, with(recordPut<<shapeTypeBit|shapeSequence, 3), true},
		"no type":              {bodyInline, with(shapeBy), false},
		"sequence 0":           {bodyInline, with(recordPut<<shapeTypeBit|shapeSequence, 0), false},
		"a form of before":     {1, sound, false},
	} {
		d := newMemDisks()
		s := mustOpen(t, d, StoreConfig{})
		if _, err := applyTo(s, 1, 1, [][]byte{append(appendCommandHead(nil, commandPut), sound...)}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
		change(t, d.history, func(tx engine.Tx) error {
			k := revisionKey(1)
			return tx.Put(engine.BucketRecords, k[:], testRecord(c.kind, c.body, 1))
		})
		_, err := s.Get("k")
		_, corrupt := errors.AsType[*CorruptError](err)
		switch {
		case what == "sound":
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
		case c.later:
			wantLater(t, what, err, 0)
			if corrupt || !strings.Contains(err.Error(), "the record of revision 1 was written by a later version") {
				t.Errorf("%s: %v", what, err)
			}
		case !corrupt:
			t.Errorf("%s: %v, want that it is damaged", what, err)
		}
	}
}
