package kvstore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// stageFixture is a sender with a history, and a receiver that has its start.
type stageFixture struct {
	sender         *Store
	log            []entry
	taken          int // entries of log in the snapshot
	half           *model
	whole          *model
	index          uint64
	meta, snapshot []byte
	receiver       *memDisks // of which every run gets a copy
}

// stageFixtures are a history of many small records and open uploads, and one
// with a value in two chunks.
func stageFixtures(t testing.TB) []*stageFixture {
	t.Helper()
	log, whole := scriptOf(t, 31, 20, 1)
	id, now := uploadID{9}, time.Unix(0, 0)
	value := bytes.Repeat([]byte("0123456789abcdef"), (ChunkBytes+160)/16)
	big := Meta{Key: "big", Size: int64(len(value)), SHA256: sumOf(value), ContentType: "a/b", Time: now, PutID: "p"}
	large := []entry{
		{index: 1, commands: [][]byte{testPut("first", "p", "", []byte("v"), now)}},
		{index: 2, commands: [][]byte{
			testPut("second", "p", "", []byte("w"), now),
			openCommand(id, now), testChunk(id, 0, value[:ChunkBytes], now), testChunk(id, 1, value[ChunkBytes:], now), sealCommand(&big, id, 2),
		}},
		{index: 3, commands: [][]byte{testPut("third", "p", "", []byte("x"), now)}},
	}
	m := newModel()
	for i := range large {
		large[i].want = m.apply(t, large[i].commands)
	}
	return []*stageFixture{newStageFixture(t, log, whole, 4, 15), newStageFixture(t, large, m, 1, 2)}
}

// newStageFixture takes the snapshot after taken entries; the receiver has have.
func newStageFixture(t testing.TB, log []entry, whole *model, have, taken int) *stageFixture {
	t.Helper()
	x := &stageFixture{sender: mustOpen(t, newMemDisks(), tiny()), log: log, taken: taken, half: newModel(), whole: whole, receiver: newMemDisks()}
	r := mustOpen(t, x.receiver, tiny())
	for i := range log[:taken] {
		x.half.apply(t, log[i].commands)
		mustApply(t, x.sender, &log[i])
		if i < have {
			mustApply(t, r, &log[i])
		}
	}
	for _, s := range []*Store{x.sender, r} {
		if err := s.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if x.index, _, x.meta, x.snapshot, err = x.sender.Durable(); err != nil {
		t.Fatal(err)
	}
	return x
}

// disks are a copy of the receiver's.
func (x *stageFixture) disks() *memDisks {
	return &memDisks{history: x.receiver.history.Copy(), index: x.receiver.index.Copy(), staging: engine.NewMemEngine()}
}

// streamItem is one item of a stream.
type streamItem struct {
	kind    itemKind
	payload []byte
}

// itemsOf takes a stream apart, and tells whether it has its end.
func itemsOf(t testing.TB, b []byte) (items []streamItem, whole bool) {
	t.Helper()
	r := bufio.NewReader(bytes.NewReader(b))
	for {
		if _, err := r.Peek(1); err == io.EOF {
			break
		}
		kind, payload, err := readItem(r, new(itemRoom))
		if err != nil {
			t.Fatal(err)
		}
		items = append(items, streamItem{kind, payload})
	}
	return items, len(items) > 0 && items[len(items)-1].kind == itemEnd
}

// sound tells whether a sender may send f.
func (f streamItem) sound() bool {
	switch p := f.payload; {
	case f.kind == itemEnd:
		return len(p) == 0
	case f.kind == itemRecord && len(p) > 8:
		rev, _ := keyRevision(p[:8])
		_, err := decodeRecord(p[8:], rev)
		return err == nil
	case f.kind == itemChunk && len(p) > chunkKeyBytes:
		_, err := decodeChunkRow(p[chunkKeyBytes:], chunkKey(p))
		return err == nil
	}
	return false
}

// seal makes the checksum inside the item right.
func (f streamItem) seal() {
	switch p := f.payload; {
	case f.kind == itemRecord && len(p) >= 8+recordPrefixBytes:
		rev, _ := keyRevision(p[:8])
		sealRecord(p[8:], rev)
	case f.kind == itemChunk && len(p) >= chunkKeyBytes+statePrefixBytes:
		sealRow(p[chunkKeyBytes:], chunkKey(p))
	}
}

// The steps of a recipe; each but stepBreak, stepEnd and stepLie has an argument.
const (
	stepCopy  = iota // so many items and one more, as they are
	stepSkip         // so many items
	stepBack         // so many items, which then come again
	stepFlip         // a bit of the next item's payload, which its inner checksum finds out
	stepLie          // a bit of the next item's payload, under checksums that are right; two arguments
	stepTear         // a bit of the next item, which its outer checksum finds out
	stepRaw          // so many bytes of the recipe
	stepForge        // a kind and so many bytes of the recipe as an item
	stepMove         // bytes from the end of the next chunk to the start of the one behind it
	stepBreak        // the stream ends here
	stepEnd          // an item that says so
	stepCount
)

// recipe is what a fuzzed sender makes of what an honest one would send. When
// it is used up, the rest is honest.
type recipe []byte

func (r *recipe) byte() int {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return int(b)
}

func (r *recipe) take(n int) []byte {
	n = min(n, len(*r))
	b := (*r)[:n]
	*r = (*r)[n:]
	return b
}

// cook returns what is sent in place of items.
func (r *recipe) cook(items []streamItem) []byte {
	var out []byte
	emit := func(f streamItem) { out = appendItem(out, f.kind, nil, f.payload) }
	for at := 0; ; {
		if len(out) > 8<<20 {
			return out // large items again and again
		}
		if len(*r) == 0 {
			for ; at < len(items); at++ {
				emit(items[at])
			}
			return out
		}
		step := r.byte() % stepCount
		if at == len(items) && (step == stepFlip || step == stepLie || step == stepTear || step == stepMove) {
			step = stepEnd
		}
		switch step {
		case stepCopy:
			for n := r.byte(); n >= 0 && at < len(items); n-- {
				emit(items[at])
				at++
			}
		case stepSkip:
			at = min(at+r.byte(), len(items))
		case stepBack:
			at = max(at-r.byte(), 0)
		case stepFlip, stepLie:
			f := streamItem{items[at].kind, bytes.Clone(items[at].payload)}
			flipBit(f.payload, r.byte()<<8|r.byte())
			if step == stepLie {
				f.seal()
			}
			emit(f)
			at++
		case stepTear:
			start := len(out)
			emit(items[at])
			flipBit(out[start:], r.byte())
			at++
		case stepRaw:
			out = append(out, r.take(r.byte())...)
		case stepForge:
			kind := itemKind(r.byte())
			emit(streamItem{kind, r.take(r.byte())})
		case stepMove:
			if moved := moveBoundary(items[at:], r.byte()); moved != nil {
				emit(moved[0])
				emit(moved[1])
				at += 2
			}
		case stepBreak:
			return out
		case stepEnd:
			emit(streamItem{kind: itemEnd})
			return out
		}
	}
}

func flipBit(b []byte, bit int) {
	if len(b) > 0 {
		b[bit/8%len(b)] ^= 1 << (bit % 8)
	}
}

// moveBoundary moves n bytes from the first of two chunks to the second. The
// value they make is the same.
func moveBoundary(items []streamItem, n int) []streamItem {
	if len(items) < 2 {
		return nil
	}
	var keys [2]chunkKey
	var data [2][]byte
	for i, f := range items[:2] {
		if f.kind != itemChunk || len(f.payload) < chunkKeyBytes {
			return nil
		}
		key := chunkKey(f.payload[:chunkKeyBytes])
		ref, err := decodeChunkRow(f.payload[chunkKeyBytes:], key)
		if err != nil {
			return nil
		}
		keys[i], data[i] = key, testBody(ref.Digest)
	}
	if len(data[0]) <= n || data[1] == nil || n+len(data[1]) > ChunkBytes {
		return nil
	}
	cut := len(data[0]) - n
	var both []streamItem
	for i, b := range [][]byte{data[0][:cut], slices.Concat(data[0][cut:], data[1])} {
		both = append(both, streamItem{itemChunk, append(keys[i][:], encodeChunkRow(keys[i], registerBody(b))...)})
	}
	return both
}

// fetch is a fuzzed sender.
func (x *stageFixture) fetch(t *testing.T, r *recipe) func(ctx ctxT, query string) (io.ReadCloser, error) {
	return func(ctx ctxT, raw string) (io.ReadCloser, error) {
		var honest bytes.Buffer
		if err := x.sender.Serve(ctx, raw, &honest); err != nil {
			t.Fatalf("query %q of a receiver: %v", raw, err)
		}
		items, _ := itemsOf(t, honest.Bytes())
		return io.NopCloser(bytes.NewReader(r.cook(items))), nil
	}
}

// fetchBodies is a source of bodies that does for each call what a byte of the recipe
// says. It has those of the fixture, and what a liar made of them.
func (x *stageFixture) fetchBodies(r *recipe) bodies.Fetch {
	return func(ctx ctxT, refs []bodies.Ref, each func(bodies.Body) error) error {
		give := refs
		var err error
		switch step := r.byte(); step % 4 {
		case 1: // it lacks some
			give = refs[:step/4%(len(refs)+1)]
		case 2: // it breaks off
			give, err = refs[:step/4%(len(refs)+1)], io.ErrUnexpectedEOF
		case 3: // it gives what nobody asked for
			data := []byte{byte(step)}
			err = each(bodies.Body{Digest: sha256.Sum256(data), Data: data})
		}
		return errors.Join(err, testFetch(ctx, give, each))
	}
}

// FuzzStage: whatever a sender makes of a snapshot's stream, damaged, cut off,
// in another order or a lie under good checksums, and whatever bodies do not come, the receiver takes the
// sender's history or none of it, and can still get it from an honest one.
func FuzzStage(f *testing.F) {
	for i, r := range [][]byte{
		{},
		{stepCopy, 2, stepBreak, stepCopy, 0, stepBreak},
		{stepCopy, 1, stepSkip, 1},
		{stepCopy, 3, stepBack, 2},
		{stepFlip, 0, 80},
		{stepCopy, 0, stepLie, 1, 80, stepBreak},
		{stepLie, 2, 250},
		{stepTear, 9},
		{stepRaw, 4, 'j', 'u', 'n', 'k'},
		{stepForge, 'r', 12, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4},
		{stepForge, 'c', 3, 1, 2, 3},
		{stepCopy, 1, stepEnd},
	} {
		f.Add(false, i%2 == 0, r, []byte(nil))
	}
	f.Add(true, false, []byte{stepCopy, 1, stepMove, 5}, []byte(nil))
	f.Add(false, true, []byte{stepCopy, 255, stepLie, 0, 220, stepBreak}, []byte(nil)) // of an open upload
	f.Add(true, true, []byte{stepCopy, 2, stepLie, 0, 200, stepBreak, stepCopy, 1, stepBreak}, []byte(nil))
	f.Add(true, true, []byte(nil), []byte{5, 2, 3, 0})
	f.Add(false, true, []byte(nil), []byte{6, 1, 1, 0})
	f.Add(true, false, []byte{stepCopy, 2, stepBreak}, []byte{0, 1})
	fixtures := stageFixtures(f)
	f.Fuzz(func(t *testing.T, large, restart bool, steps, bodySteps []byte) {
		x := fixtures[0]
		if large {
			x = fixtures[1]
		}
		d := x.disks()
		s := mustOpen(t, d, tiny())
		r, b := recipe(steps[:min(len(steps), 300)]), recipe(bodySteps[:min(len(bodySteps), 30)])
		for honest := 0; ; {
			left := len(r) + len(b)
			err := s.Stage(t.Context(), x.snapshot, x.fetch(t, &r), x.fetchBodies(&b))
			if fatal := s.err(); fatal != nil {
				t.Fatalf("the stream ends the store: %v", fatal)
			}
			if err == nil {
				break
			}
			if empty := d.staging.Size() == 0; errors.Is(err, errSnapshotBody) && !empty {
				t.Fatalf("staging keeps what was damaged: %v", err)
			}
			if len(r)+len(b) == left {
				honest++ // what a liar left behind may cost one pull
			}
			if honest > 1 {
				t.Fatalf("an honest sender is refused: %v", err)
			}
			if err := s.Install(x.index, 7, x.meta, x.snapshot); err == nil {
				t.Fatal("a snapshot that was not staged was installed")
			}
			if fatal := s.err(); fatal != nil {
				t.Fatalf("an install that was refused ends the store: %v", fatal)
			}
			if restart {
				s = mustOpen(t, d, tiny())
			}
		}
		if err := s.Install(x.index, 7, x.meta, x.snapshot); err != nil {
			t.Fatal(err)
		}
		x.half.check(t, s)
		for i := x.taken; i < len(x.log); i++ {
			mustApply(t, s, &x.log[i])
		}
		x.whole.check(t, s)
	})
}
