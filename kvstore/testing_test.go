package kvstore

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

func sumOf(b []byte) Digest { return sha256.Sum256(b) }

func contextWithCancel(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return ctx, cancel
}

// patience is how long a test waits for what has to come, on a machine with two
// cores, the race detector, and other tests beside.
const patience = 2 * time.Minute

// waitFor polls until ok, and fails the test when that takes too long.
func waitFor(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("the condition did not come true in %v", patience)
		case <-tick.C:
		}
	}
}

// testBodies are the bodies that commands of tests refer to, packed, by digest: in place
// of whoever sees to it that a body is everywhere before an entry refers to it.
var testBodies sync.Map

// registerBody makes a body one that applyTo and testFetch find.
func registerBody(data []byte) bodies.Ref {
	d := bodies.Digest(sha256.Sum256(data))
	if _, known := testBodies.Load(d); !known {
		var packed bytes.Buffer
		w, err := flate.NewWriter(&packed, flate.BestSpeed)
		if err == nil {
			_, err = w.Write(data)
		}
		if err = errors.Join(err, w.Close()); err != nil {
			panic(err)
		}
		testBodies.Store(d, packed.Bytes())
	}
	return bodies.Ref{Digest: d, Size: len(data)}
}

// testBody returns a body that was registered; nil if it was not.
func testBody(d bodies.Digest) []byte {
	packed, ok := testBodies.Load(d)
	if !ok {
		return nil
	}
	data, err := io.ReadAll(flate.NewReader(bytes.NewReader(packed.([]byte))))
	if err != nil {
		panic(err)
	}
	return data
}

// sealRow makes the format and the checksum of a chunk's row right.
func sealRow(row []byte, k chunkKey) { encodeState(chunkFormat, k[:], row) }

// rowOf returns the row of a chunk that a command brings.
func rowOf(t testing.TB, cmd []byte) (chunkKey, []byte) {
	t.Helper()
	c, err := decodeCommand(cmd)
	if err != nil || c.kind != commandChunk {
		t.Fatalf("it brings no chunk: %+v, %v", c, err)
	}
	key := makeChunkKey(c.upload, c.number)
	return key, encodeChunkRow(key, c.ref)
}

// testFetch gives the bodies that are registered.
func testFetch(_ context.Context, refs []bodies.Ref, each func(bodies.Body) error) error {
	for _, ref := range refs {
		if data := testBody(ref.Digest); data != nil {
			if err := each(bodies.Body{Digest: ref.Digest, Data: data}); err != nil {
				return err
			}
		}
	}
	return nil
}

// supply makes the bodies durable that are not, of those that are registered.
func supply(to *bodies.Store, refs ...bodies.Ref) error {
	added := false
	for _, ref := range refs {
		if to.Has(ref.Digest) {
			continue
		}
		if data := testBody(ref.Digest); data != nil {
			if _, err := to.Append(ref.Digest, data); err != nil {
				return err
			}
			added = true
		}
	}
	if !added {
		return nil
	}
	return to.Sync(context.Background())
}

// applyTo is Store.Apply, after the bodies are there that the commands refer to.
func applyTo(s *Store, index, term uint64, commands [][]byte, meta []byte) ([]any, error) {
	for _, cmd := range commands {
		if ref, ok := s.Body(cmd); ok && s.err() == nil {
			if err := supply(s.bodies, ref); err != nil {
				return nil, err
			}
		}
	}
	return s.Apply(index, term, commands, meta)
}

// distributeTo is Log.Distribute of a log of one node.
func distributeTo(ctx context.Context, s *Store, list []bodies.Body) error {
	for _, b := range list {
		registerBody(b.Data)
		if _, err := s.bodies.Append(b.Digest, b.Data); err != nil {
			return err
		}
	}
	return s.bodies.Sync(ctx)
}

// openBodies opens bodies in a directory; what a crash of the machine does to them is
// for their own tests.
func openBodies(t testing.TB, dir string, now func() time.Time) *bodies.Store {
	t.Helper()
	s, err := bodies.Open(bodies.Config{Dir: dir, Now: now, Sync: func(string) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// supplyHistory gives bodies what a history refers to.
func supplyHistory(t testing.TB, to *bodies.Store, history engine.Engine) {
	t.Helper()
	var refs []bodies.Ref
	if err := history.View(func(tx engine.Tx) error {
		tx.Ascend(engine.BucketChunks, nil, func(k, row []byte) bool {
			if len(k) == chunkKeyBytes {
				if ref, err := decodeChunkRow(row, chunkKey(k)); err == nil {
					refs = append(refs, ref)
				}
			}
			return true
		})
		return ascendRecords(tx, 1, func(rev Revision, raw []byte) bool {
			if d, err := decodeRecord(raw, rev); err == nil && d.kind == bodyReferred {
				refs = append(refs, d.ref())
			}
			return true
		})
	}); err != nil {
		t.Logf("history is not read for its bodies: %v", err) // it is damaged on purpose
	}
	if err := supply(to, refs...); err != nil {
		t.Fatal(err)
	}
}

// boltMeta is what a meta page of a bbolt file says, and where it lies.
type boltMeta struct {
	at, pageBytes, used int // used: bytes of the file that the transaction refers to
	txid                uint64
}

// boltMetas returns the meta pages of a sound bbolt file, the newer one first.
func boltMetas(t testing.TB, path string) [2]boltMeta {
	t.Helper()
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const header = 16 // of every page
	pageBytes := int(binary.NativeEndian.Uint32(file[header+8:]))
	var metas [2]boltMeta
	for i := range metas {
		page := file[i*pageBytes+header:]
		pages := binary.NativeEndian.Uint64(page[40:])
		metas[i] = boltMeta{i*pageBytes + header, pageBytes, int(pages) * pageBytes, binary.NativeEndian.Uint64(page[48:])}
	}
	if metas[0].txid < metas[1].txid {
		metas[0], metas[1] = metas[1], metas[0]
	}
	return metas
}

// damageFirst flips bits of the first byte of the first value in a bucket.
func damageFirst(t testing.TB, e *engine.MemEngine, b engine.Bucket, bits byte) {
	t.Helper()
	if err := e.Update(func(tx engine.Tx) error {
		key, value := tx.Seek(b, nil)
		value = bytes.Clone(value)
		value[0] ^= bits
		return tx.Put(b, key, value)
	}); err != nil {
		t.Fatal(err)
	}
}
