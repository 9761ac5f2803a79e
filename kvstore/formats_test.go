package kvstore

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/level"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// filesOf returns the digests of all files of a directory.
func filesOf(t *testing.T, dir string) map[string][sha256.Size]byte {
	t.Helper()
	files := make(map[string][sha256.Size]byte)
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files[path] = sha256.Sum256(b)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

// A member table in which a bit has turned names another member or another voter, and
// is still a table: no start goes past it.
func TestStoreDir_DamagedMemberTable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openDir(t, dir, StoreConfig{})
	table := []byte(`{"voters":[1]}`)
	if err := s.Bootstrap(1, 1, table, [16]byte{1}); err != nil {
		t.Fatal(err)
	}
	if _, _, meta, _, err := s.Durable(); err != nil || !bytes.Equal(meta, table) {
		t.Fatalf("%q, %v", meta, err)
	}
	change(t, s.history, func(tx engine.Tx) error {
		return tx.Put(engine.BucketState, keyMeta, bytes.Replace(tx.Get(engine.BucketState, keyMeta), []byte("1"), []byte("3"), 1))
	})
	if _, _, meta, _, err := s.Durable(); err == nil {
		t.Errorf("a running node goes on with %q", meta)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := OpenStoreDir(dir, StoreConfig{})
	if c, ok := errors.AsType[*CorruptError](err); !ok || c.File != filepath.Join(dir, historyFile) || !strings.Contains(c.Detail, "the member table: its checksum is") {
		t.Errorf("a start: %v", err)
	}
}

// A history of another version is refused with a sentence that says what to do, and
// not a byte of the directory changes: not even what else is missing in it is made.
func TestStoreDir_HistoryOfAnotherVersion(t *testing.T) {
	t.Parallel()
	for format, want := range map[byte]string{
		1:                 "was written by a version of oncekv from before the first release, which this program cannot read: serve it with the program that wrote it and move its keys",
		2:                 "was written by a version of oncekv from before the first release",
		appliedFormat + 1: "was written by a later version of oncekv",
	} {
		dir := t.TempDir()
		s := openDir(t, dir, StoreConfig{})
		if _, err := applyTo(s, 1, 1, [][]byte{testPut("k", "p", "", []byte("v"), time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
		if err := s.FlushIndex(); err != nil {
			t.Fatal(err)
		}
		change(t, s.history, func(tx engine.Tx) error {
			return tx.Put(engine.BucketState, keyApplied, encodeState(format, keyApplied, bytes.Clone(tx.Get(engine.BucketState, keyApplied))))
		})
		if err := errors.Join(s.Close(), os.RemoveAll(filepath.Join(dir, indexDir)), os.WriteFile(filepath.Join(dir, scratchFile), []byte("left"), 0o600),
			os.WriteFile(filepath.Join(dir, oldIndexFile), []byte("of an earlier version"), 0o600)); err != nil {
			t.Fatal(err)
		}
		before := filesOf(t, dir)
		_, err := OpenStoreDir(dir, StoreConfig{})
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, historyFile)+" "+want) {
			t.Errorf("format %d: %v", format, err)
		}
		earlier, later := errors.As(err, new(*level.EarlierError)), errors.As(err, new(*level.LaterError))
		if earlier != (format < appliedFormat) || later == earlier {
			t.Errorf("format %d: it is %T", format, err)
		}
		after := filesOf(t, dir)
		if len(after) != len(before) {
			t.Errorf("format %d: %d files became %d", format, len(before), len(after))
		}
		for path, sum := range before {
			if after[path] != sum {
				t.Errorf("format %d: %s changed", format, path)
			}
		}
	}
}

// What only a later version sends, or asks for, is refused with a sentence, and is
// neither damage nor the end of a store.
func TestStore_Stage_ASenderOfALaterVersion(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 43, 60, 1)
	sender, receiver := twin(t, log, 10)
	index, _, meta, snapshot, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	seal := func(item []byte) []byte {
		binary.BigEndian.PutUint32(item[5:], itemChecksum(item))
		return item
	}
	record := func(kind itemKind) []byte {
		return appendItem(nil, kind, make([]byte, 8), []byte("what nobody knows yet"))
	}
	of := func(sequence byte) []byte {
		item := record(itemRecord)
		item[itemHeaderBytes] = sequence
		return seal(item)
	}
	var honest bytes.Buffer
	own := mustOpen(t, receiver(), tiny()).Stats().Revision
	pull := query{kind: queryRecords, index: index, after: own, through: own + 1}
	if err := sender.Serve(t.Context(), pull.String(), &honest); err != nil {
		t.Fatal(err)
	}
	items, _ := itemsOf(t, honest.Bytes())
	items[0].payload[8+recordPrefixBytes] = (recordPut + 1) << shapeTypeBit
	items[0].seal()
	typed := appendItem(nil, itemRecord, nil, items[0].payload)
	for what, item := range map[string][]byte{"a record of another type": typed, "a stub": record(itemStub), "a leaf": record(itemLeaf), "sequence 1": of(1), "sequence 127": of(127)} {
		s := mustOpen(t, receiver(), tiny())
		err := s.Stage(t.Context(), snapshot, func(ctxT, string) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(item)), nil }, testFetch)
		if err == nil || errors.Is(err, errSnapshotBody) || errors.As(err, new(*level.LaterError)) || !strings.Contains(err.Error(), "later version of oncekv") {
			t.Errorf("%s: %v", what, err)
		}
		if err := catchUp(t, s, index, meta, snapshot, sender); err != nil {
			t.Errorf("%s: the next pull: %v", what, err)
		}
		m.check(t, s)
	}
	q := query{kind: queryRecords}
	asked := strings.Replace(q.String(), "sequence=0", "sequence=1", 1)
	if err := sender.Serve(t.Context(), asked, io.Discard); err == nil || !strings.Contains(err.Error(), "later version of oncekv") {
		t.Errorf("%s: %v", asked, err)
	}
	snap, err := decodeSnapshot(snapshot)
	if err != nil {
		t.Fatal(err)
	}
	for what, raw := range map[string][]byte{
		"of a later format":   append([]byte{snapshotFormat + 1}, snapshot[1:]...),
		"of another sequence": append([]byte{snapshotFormat, 1}, encodeSnapshot(snap)[2:]...),
	} {
		s := mustOpen(t, receiver(), tiny())
		if err := s.Stage(t.Context(), raw, serveFrom(sender), testFetch); err == nil || !strings.Contains(err.Error(), "later version of oncekv") || errors.As(err, new(*level.LaterError)) {
			t.Errorf("a snapshot %s: %v", what, err)
		}
		if err := s.Install(snap.index, 7, nil, raw); err == nil || s.err() != nil {
			t.Errorf("a snapshot %s is installed: %v, %v", what, err, s.err())
		}
	}
}

// A checkpoint has a checksum: what is computed from a damaged one is not told.
func TestStore_DigestAt_DamagedCheckpoint(t *testing.T) {
	t.Parallel()
	log, m := scriptOf(t, 41, 60, 1)
	cfg := tiny()
	cfg.CheckpointRevisions = 8
	d := newMemDisks()
	if err := runLog(t, mustOpen(t, d, cfg), log); err != nil {
		t.Fatal(err)
	}
	k := revisionKey(16)
	var sound []byte
	change(t, d.history, func(tx engine.Tx) error { sound = bytes.Clone(tx.Get(engine.BucketCheckpoints, k[:])); return nil })
	for i := range sound {
		damaged := bytes.Clone(sound)
		damaged[i] ^= 1
		d := &memDisks{history: d.history.Copy(), index: d.index.Copy(), staging: engine.NewMemEngine()}
		change(t, d.history, func(tx engine.Tx) error { return tx.Put(engine.BucketCheckpoints, k[:], damaged) })
		s, err := d.open(t, cfg)
		if err == nil {
			_, err = s.DigestAt(18)
		}
		if _, corrupt := errors.AsType[*CorruptError](err); !corrupt {
			t.Errorf("byte %d is damaged: %v", i, err)
		}
	}
	if got, err := mustOpen(t, d, cfg).DigestAt(18); err != nil || got != m.digests[18] {
		t.Errorf("nothing is damaged: %s, %v", got, err)
	}
}

// What a snapshot claims is compared with what its records make.
func TestStore_Stage_ASnapshotThatLies(t *testing.T) {
	t.Parallel()
	log, _ := scriptOf(t, 42, 60, 1)
	sender, receiver := twin(t, log, 10)
	_, _, _, raw, err := sender.Durable()
	if err != nil {
		t.Fatal(err)
	}
	for what, lie := range map[string]func(s *snapshot){
		"bytes of values": func(s *snapshot) { s.valueBytes++ },
		"another tree": func(s *snapshot) {
			size := s.rev
			s.derived = derived{valueBytes: s.valueBytes}
			for range size {
				s.tree.Append(sumOf(nil))
			}
			s.rev = size
		},
	} {
		snap, err := decodeSnapshot(raw)
		if err != nil {
			t.Fatal(err)
		}
		lie(snap)
		s := mustOpen(t, receiver(), tiny())
		if err := s.Stage(t.Context(), encodeSnapshot(snap), serveFrom(sender), testFetch); !errors.Is(err, errSnapshotBody) {
			t.Errorf("%s: %v", what, err)
		}
		if err := s.Install(snap.index, 7, nil, encodeSnapshot(snap)); err == nil {
			t.Errorf("%s: it is installed", what)
		}
	}
}
