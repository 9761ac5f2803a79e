package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// testRecord makes a body the record of rev.
func testRecord(kind bodyKind, body []byte, rev Revision) []byte {
	record := append(make([]byte, recordPrefixBytes), body...)
	record[0] = byte(kind)
	sealRecord(record, rev)
	return record
}

// testRecords makes sealed records of revisions from first on.
func testRecords(first Revision, sizes ...int) [][]byte {
	var records [][]byte
	for i, size := range sizes {
		rev := first + Revision(i)
		cmd := testPut(Key(fmt.Sprint("key ", rev)), "id", "", bytes.Repeat([]byte{byte(rev)}, size), time.Unix(1, 0))
		records = append(records, testRecord(bodyInline, cmd[commandHeadBytes:], rev))
	}
	return records
}

// writeTestRecords appends records behind after, as a commit does.
func writeTestRecords(t *testing.T, e engine.Engine, after Revision, records [][]byte, fillUp bool) {
	t.Helper()
	change(t, e, func(tx engine.Tx) error {
		w, err := appendRecords(tx, after, after+Revision(len(records)), fillUp)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := w.add(r); err != nil {
				return err
			}
		}
		return w.flush()
	})
}

// checkRecords compares what is read, one by one and in a row, with records,
// the first of which has revision 1.
func checkRecords(t *testing.T, e engine.Engine, records [][]byte) {
	t.Helper()
	if err := e.View(func(tx engine.Tx) error {
		for i, want := range records {
			if got, err := recordAt(tx, Revision(i+1)); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("record %d: %d bytes, %v; want %d bytes", i+1, len(got), err, len(want))
			}
		}
		for _, from := range []int{0, len(records) / 3, len(records) - 1} {
			at := from
			err := ascendRecords(tx, Revision(from+1), func(rev Revision, raw []byte) bool {
				if rev != Revision(at+1) || !bytes.Equal(raw, records[at]) {
					t.Fatalf("revision %d came in place of %d", rev, at+1)
				}
				at++
				return at < len(records)
			})
			if err != nil || at != len(records) {
				t.Fatalf("from %d: ended before %d of %d: %v", from, at, len(records), err)
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// Records come back as they were, however many a commit brings, and small
// commits make full blocks all the same.
func TestBlocks_RoundTrip(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 1))
	e := engine.NewMemEngine()
	var all [][]byte
	for len(all) < 3000 {
		sizes := make([]int, 1+rng.IntN(40))
		for i := range sizes {
			sizes[i] = rng.IntN(300)
			if rng.IntN(50) == 0 {
				sizes[i] = rng.IntN(BodyBytesMin)
			}
		}
		records := testRecords(Revision(len(all)+1), sizes...)
		writeTestRecords(t, e, Revision(len(all)), records, true)
		all = append(all, records...)
	}
	checkRecords(t, e, all)
	blocks, size, stored := 0, 0, 0
	if err := e.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketRecords, nil, func(k, v []byte) bool {
			last, _ := keyRevision(k)
			b, err := openBlock(v, last)
			if err != nil || len(v) > blockBytes && b.ends != nil {
				t.Errorf("a block of %d bytes: %v", len(v), err)
			}
			stored += b.len()
			blocks++
			size += len(v)
			return true
		})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if stored != len(all) {
		t.Errorf("%d records are stored as %d", len(all), stored)
	}
	if mean := size / blocks; mean < smallBlockBytes*3/4 {
		t.Errorf("%d blocks of %d bytes", blocks, mean)
	}
}

// Commits of one record each make the same blocks as one commit of all.
func TestBlocks_SmallCommitsFillThem(t *testing.T) {
	t.Parallel()
	sizes := make([]int, 300)
	for i := range sizes {
		sizes[i] = i
	}
	records := testRecords(1, sizes...)
	one, many := engine.NewMemEngine(), engine.NewMemEngine()
	writeTestRecords(t, one, 0, records, true)
	for i := range records {
		writeTestRecords(t, many, Revision(i), records[i:i+1], true)
	}
	checkRecords(t, many, records)
	if got, want := blocks(t, many), blocks(t, one); got > want+want/10 {
		t.Errorf("small commits make %d blocks, want about %d", got, want)
	}
}

// blocks counts the blocks of records.
func blocks(t *testing.T, e engine.Engine) (n int) {
	t.Helper()
	if err := e.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketRecords, nil, func(_, _ []byte) bool { n++; return true })
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// What was left behind the end of history, in blocks that begin and end
// elsewhere, is written over, and never hides a record.
func TestBlocks_WrittenOver(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		e := engine.NewMemEngine()
		sizes := make([]int, 400)
		for i := range sizes {
			sizes[i] = rng.IntN(1500)
		}
		all := testRecords(1, sizes...)
		staged := 0
		for at := 0; at < len(all); { // pulls behind the end, of which some come again
			n := min(1+rng.IntN(120), len(all)-at)
			writeTestRecords(t, e, Revision(at), all[at:at+n], false)
			at += n
			staged = at
			if rng.IntN(4) == 0 {
				break
			}
		}
		for at := 0; at < len(all); {
			n := min(1+rng.IntN(30), len(all)-at)
			writeTestRecords(t, e, Revision(at), all[at:at+n], true)
			at += n
			checkRecords(t, e, all[:max(at, staged)])
		}
		checkRecords(t, e, all)
	}
}

// Every bit of a block counts: of its header, of each record, of its key.
func TestBlocks_EveryBitCounts(t *testing.T) {
	t.Parallel()
	records := testRecords(5, 0, 10, 100)
	size := 0
	for _, r := range records {
		size += len(r) + blockRecordBytes
	}
	const last = 7
	block := encodeBlock(records, last, size)
	sound := func(raw []byte, last Revision) bool {
		b, err := openBlock(raw, last)
		if err != nil || b.len() != len(records) {
			return err == nil && b.ends == nil && func() bool { _, err := decodeRecord(b.data, last); return err == nil }()
		}
		for i := range records {
			if _, err := decodeRecord(b.record(i), b.first()+Revision(i)); err != nil {
				return false
			}
		}
		return true
	}
	if !sound(block, last) {
		t.Fatal("the block itself is refused")
	}
	for bit := range 8 * len(block) {
		damaged := bytes.Clone(block)
		damaged[bit/8] ^= 1 << (bit % 8)
		if sound(damaged, last) {
			t.Fatalf("bit %d of byte %d does not count", bit%8, bit/8)
		}
	}
	for n := range block {
		if sound(block[:n], last) {
			t.Fatalf("%d of %d bytes are accepted", n, len(block))
		}
	}
	if sound(append(bytes.Clone(block), 0), last) || sound(block, last+1) || sound(block, last-1) {
		t.Fatal("a longer block, or another's, is accepted")
	}
}

// FuzzOpenBlock: whatever lies under a revision, it is taken apart or refused,
// and what is taken apart stays inside of it.
func FuzzOpenBlock(f *testing.F) {
	f.Add(encodeBlock(testRecords(5, 0, 10, 100), 7, 1000), uint64(7))
	f.Add([]byte{blockFormat}, uint64(1))
	f.Add([]byte{blockFormat, 0, 0, 0, 0, 0, 2, 0, 9, 0, 3, 1, 2, 3}, uint64(2))
	f.Fuzz(func(t *testing.T, raw []byte, at uint64) {
		for range 2 {
			if b, err := openBlock(raw, Revision(at)); err == nil {
				for i := range b.len() {
					if r := b.record(i); len(r) > len(raw) {
						t.Fatalf("record %d has %d bytes of %d", i, len(r), len(raw))
					}
				}
			}
			if len(raw) < blockFixedBytes {
				return
			}
			raw = bytes.Clone(raw) // and with a checksum that is right
			raw[0] = blockFormat
			header := min(len(raw), blockFixedBytes+blockRecordBytes*(int(raw[5])<<8+int(raw[6])))
			sum := recordChecksum(raw[:header], Revision(at))
			raw[1], raw[2], raw[3], raw[4] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		}
	})
}

// unblock makes every record of a history alone in its block.
func unblock(t *testing.T, e engine.Engine) {
	t.Helper()
	change(t, e, func(tx engine.Tx) error {
		var keys, records [][]byte
		var revs []Revision
		if err := ascendRecords(tx, 1, func(rev Revision, raw []byte) bool {
			revs, records = append(revs, rev), append(records, bytes.Clone(raw))
			return true
		}); err != nil {
			return err
		}
		tx.Ascend(engine.BucketRecords, nil, func(k, _ []byte) bool { keys = append(keys, bytes.Clone(k)); return true })
		for _, k := range keys {
			if err := tx.Delete(engine.BucketRecords, k); err != nil {
				return err
			}
		}
		for i, rev := range revs {
			k := revisionKey(rev)
			if err := tx.Put(engine.BucketRecords, k[:], records[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Records that are alone in their blocks, as large ones are, are read as others.
func TestStore_Open_RecordsThatAreAlone(t *testing.T) {
	t.Parallel()
	log, m := script(t, 12, 120)
	half := newModel()
	for i := range log[:60] {
		half.apply(t, log[i].commands)
	}
	d := newMemDisks()
	s := mustOpen(t, d, tiny())
	if err := runLog(t, s, log[:60]); err != nil {
		t.Fatal(err)
	}
	unblock(t, d.history)
	s = mustOpen(t, d, tiny())
	half.check(t, s)
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
	fresh := mustOpen(t, newMemDisks(), tiny())
	index, _, meta, snapshot, err := s.Durable()
	if err != nil {
		t.Fatal(err)
	}
	if err := catchUp(t, fresh, index, meta, snapshot, s); err != nil {
		t.Fatal(err)
	}
	half.check(t, fresh)
	if err := runLog(t, s, log); err != nil {
		t.Fatal(err)
	}
	m.check(t, s)
	m.check(t, mustOpen(t, d, tiny()))
}

// Commits of the same entries, a pull of them behind the end of history, and an
// install may come in any order: no record is lost or hidden.
func TestStore_Stage_WhileItCommits(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 13, 90, 1)
	for _, at := range []int{0, 5, 20, 59, 60} {
		sender, receiver := twin(t, log[:60], 10)
		index, _, meta, snapshot, err := sender.Durable()
		if err != nil {
			t.Fatal(err)
		}
		d := receiver()
		s := mustOpen(t, d, tiny())
		step := 0
		fetch := func(ctx ctxT, query string) (io.ReadCloser, error) {
			if step++; step == 1 { // what the log brings comes first
				if err := runLog(t, s, log[:max(at, 10)]); err != nil {
					return nil, err
				}
			}
			return serveFrom(sender)(ctx, query)
		}
		if err := s.Stage(t.Context(), snapshot, fetch, testFetch); err != nil {
			t.Fatal(err)
		}
		if at%2 == 0 {
			s = mustOpen(t, d, tiny())
		}
		if err := runLog(t, s, log[:min(at+15, 60)]); err != nil { // and some of it after
			t.Fatal(err)
		}
		if err := s.Install(index, 7, meta, snapshot); err != nil {
			t.Fatalf("after %d entries: %v", at, err)
		}
		if err := runLog(t, s, log); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
		m.check(t, mustOpen(t, d, tiny()))
	}
}

// What a refused pull left behind the end of history is written over.
func TestStore_Stage_RefusedRecordsAreWrittenOver(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 14, 80, 1)
	other, _ := scriptOf(t, 15, 80, 1)
	liar, receiver := twin(t, other, 0)
	honest, _ := twin(t, log[:50], 0)
	index, _, meta, snapshot, err := honest.Durable()
	if err != nil {
		t.Fatal(err)
	}
	lie := func(ctx ctxT, raw string) (io.ReadCloser, error) {
		q, err := parseQuery(raw)
		if err != nil {
			return nil, err
		}
		q.index = 1
		return serveFrom(liar)(ctx, q.String())
	}
	d := receiver()
	cfg := tiny()
	cfg.CommitBytes = 1000 // so that much of the lie is written before it is found out
	s := mustOpen(t, d, cfg)
	for range 2 {
		if err := s.Stage(t.Context(), snapshot, lie, testFetch); !errors.Is(err, errSnapshotBody) {
			t.Fatalf("got %v", err)
		}
	}
	if d.history.Size() < 1000 {
		t.Fatal("nothing of the lie was written")
	}
	t.Run("by commits", func(t *testing.T) {
		d := &memDisks{history: d.history.Copy(), index: keyruns.NewMemFiles(), staging: engine.NewMemEngine()}
		s := mustOpen(t, d, cfg)
		if err := runLog(t, s, log); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
		m.check(t, mustOpen(t, d, cfg))
	})
	t.Run("by a pull", func(t *testing.T) {
		s := mustOpen(t, d, cfg)
		if err := catchUp(t, s, index, meta, snapshot, honest); err != nil {
			t.Fatal(err)
		}
		if err := runLog(t, s, log); err != nil {
			t.Fatal(err)
		}
		m.check(t, s)
		m.check(t, mustOpen(t, d, cfg))
	})
}

// A pull that an older version began, with its records in the staging area, is
// dropped and begins again.
func TestStore_Stage_StagingOfAnOlderVersion(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 16, 60, 1)
	sender, receiver := twin(t, log, 10)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	d := receiver()
	s := mustOpen(t, d, tiny())
	own := s.durableState()
	change(t, d.staging, func(tx engine.Tx) error {
		p := progress{base: mark{own.rev, own.digest()}, last: own.derived, done: true}
		k := revisionKey(own.rev + 1)
		return errors.Join(tx.Put(engine.BucketState, keySnapshot, snapshot), tx.Put(engine.BucketRecords, k[:], testRecords(own.rev+1, 10)[0]),
			tx.Put(engine.BucketState, keyProgress, encodeState(1, keyProgress, encodeProgress(&p))))
	})
	if err := s.Install(index, 7, meta, snapshot); err == nil {
		t.Fatal("it was installed")
	}
	s = mustOpen(t, d, tiny())
	var corrupt *CorruptError
	if err := s.Stage(t.Context(), snapshot, serveFrom(sender), testFetch); !errors.As(err, &corrupt) {
		t.Fatalf("got %v", err)
	}
	if err := catchUp(t, s, index, meta, snapshot, sender); err != nil {
		t.Fatalf("the next pull: %v", err)
	}
	m.check(t, s)
}

// Where the damaged block lies must be said.
func TestBlocks_UnknownFormatHasAnOffset(t *testing.T) {
	t.Parallel()
	e, err := openBolt(filepath.Join(t.TempDir(), "h.db"), engine.BoltOptions{FillPages: true})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	records := testRecords(1, 1200, 1200, 1200)
	writeTestRecords(t, e, 0, records, true)
	if err := e.Update(func(tx engine.Tx) error {
		k := revisionKey(3)
		raw := append([]byte(nil), tx.Get(engine.BucketRecords, k[:])...)
		raw[0] ^= 4
		return tx.Put(engine.BucketRecords, k[:], raw)
	}); err != nil {
		t.Fatal(err)
	}
	_ = e.View(func(tx engine.Tx) error {
		_, err := readRecord(tx, 2)
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) || corrupt.Offset < 0 {
			t.Errorf("got %v", err)
		}
		return nil
	})
}

// A record that is damaged gets no sound header when its block is written anew.
func TestBlocks_CutRefusesDamage(t *testing.T) {
	t.Parallel()
	for damaged := range 5 {
		e := engine.NewMemEngine()
		all := testRecords(1, 10, 10, 10, 10, 10)
		all[damaged][len(all[damaged])-1] ^= 1
		writeTestRecords(t, e, 0, all, false)
		for rev := Revision(1); rev < 5; rev++ {
			var corrupt *CorruptError
			err := e.Copy().Update(func(tx engine.Tx) error { return cutBlock(tx, rev) })
			if taken := damaged < int(rev); taken != errors.As(err, &corrupt) || !taken && err != nil {
				t.Errorf("record %d is damaged; cut at revision %d: %v", damaged+1, rev, err)
			}
		}
	}
}

// A block that is cut may have been made when more went into one. Then several are
// written, and each write counts.
func TestBlocks_CutTellsOfEveryWrite(t *testing.T) {
	t.Parallel()
	records := testRecords(1, 15_000, 15_000, 15_000, 10)
	size := 0
	for _, r := range records {
		size += len(r) + blockRecordBytes
	}
	for failing := range 4 {
		e := engine.NewMemEngine()
		k := revisionKey(4)
		change(t, e, func(tx engine.Tx) error { return tx.Put(engine.BucketRecords, k[:], encodeBlock(records, 4, size)) })
		f := &nthFault{left: failing}
		err := nthEngine{e, historyFile, f}.Update(func(tx engine.Tx) error { return cutBlock(tx, 3) })
		if (f.hit != "") != errors.Is(err, engine.ErrInjected) || f.hit == "" && err != nil || failing == 1 && f.hit == "" {
			t.Errorf("write %d fails, %q: %v", failing+1, f.hit, err)
		}
		if err == nil {
			checkRecords(t, e, records)
		}
	}
}
