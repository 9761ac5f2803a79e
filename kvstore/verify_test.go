package kvstore

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

func TestStore_Verify_FindsWhatReadsCannot(t *testing.T) {
	t.Parallel()
	damages := map[string]func(t *testing.T, d *memDisks, s *Store){
		"none": func(*testing.T, *memDisks, *Store) {},
		"a key is gone from the index": func(t *testing.T, _ *memDisks, s *Store) {
			n := 0
			reindex(t, s, func([]byte, uint64) bool { n++; return n != 7 })
		},
		"a block of the index changed": func(t *testing.T, d *memDisks, _ *Store) {
			if name, _, ok := d.index.Damage(func(n int) int { return n / 3 }); !ok || !strings.HasSuffix(name, ".run") {
				t.Fatalf("%s is damaged", name)
			}
		},
		"a record's last byte changed": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				from := revisionKey(3)
				k, v := tx.Seek(engine.BucketRecords, from[:])
				v = append([]byte(nil), v...)
				v[len(v)-1] ^= 1
				return tx.Put(engine.BucketRecords, k, v)
			})
		},
		"two records changed places": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				from := revisionKey(2)
				k, raw := tx.Seek(engine.BucketRecords, from[:])
				b, err := openBlockIn(tx, k, raw)
				if err != nil {
					return err
				}
				var records [][]byte
				size := 0
				for i := range b.len() {
					records = append(records, b.record(i))
					size += len(b.record(i)) + blockRecordBytes
				}
				at := 2 - b.first()
				records[at], records[at+1] = records[at+1], records[at]
				return tx.Put(engine.BucketRecords, k, encodeBlock(records, b.last, size))
			})
		},
		"a value changed before its record got its checksum": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				from := revisionKey(3)
				k, raw := tx.Seek(engine.BucketRecords, from[:])
				b, err := openBlockIn(tx, k, append([]byte(nil), raw...))
				if err != nil {
					return err
				}
				for i := range b.len() {
					r := b.record(i)
					rev := b.first() + Revision(i)
					if d, err := checkRecord(tx, r, rev); err != nil {
						return err
					} else if len(d.value) > 0 {
						d.value[0] ^= 1
						sealRecord(r, rev)
						break
					}
				}
				whole := append([]byte(nil), raw[:len(raw)-len(b.data)]...) // what changed is the data alone
				return tx.Put(engine.BucketRecords, k, append(whole, b.data...))
			})
		},
		"a chunk's last byte changed": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				k, v := sealedChunk(t, tx)
				v[len(v)-1] ^= 1
				return tx.Put(engine.BucketChunks, k[:], v)
			})
		},
		"a chunk is gone": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				k, _ := sealedChunk(t, tx)
				return tx.Delete(engine.BucketChunks, k[:])
			})
		},
		"a chunk is shorter than its place": func(t *testing.T, d *memDisks, _ *Store) {
			change(t, d.history, func(tx engine.Tx) error {
				k, v := sealedChunk(t, tx)
				ref, err := decodeChunkRow(v, k)
				if err != nil {
					return err
				}
				ref.Size--
				return tx.Put(engine.BucketChunks, k[:], encodeChunkRow(k, ref))
			})
		},
	}
	log, _ := script(t, 7, 120)
	looks := map[string]func(*Store) error{
		"Verify": func(s *Store) error { return s.Verify(context.Background()) },
		"Scrub":  func(s *Store) error { return s.Scrub(context.Background(), 0, nil) },
	}
	for name, damage := range damages {
		for how, look := range looks {
			t.Run(name+" "+how, func(t *testing.T) {
				findsDamage(t, log, damage, look, name != "none")
			})
		}
	}
}

// findsDamage looks at a store whose disks were damaged.
func findsDamage(t *testing.T, log []entry, damage func(*testing.T, *memDisks, *Store), look func(*Store) error, want bool) {
	t.Helper()
	disks := newMemDisks()
	s := mustOpen(t, disks, tiny())
	for i := range log {
		mustApply(t, s, &log[i])
	}
	if err := errors.Join(s.Commit(), s.FlushIndex()); err != nil {
		t.Fatal(err)
	}
	damage(t, disks, s)
	err := look(s)
	if !want {
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Fatalf("it says %v", err)
	}
	if _, err := s.Get("anything"); !errors.As(err, &corrupt) {
		t.Fatalf("a store that failed still answers: %v", err)
	}
}

// sealedChunk returns a chunk of some value that is set.
func sealedChunk(t *testing.T, tx engine.Tx) (key chunkKey, stored []byte) {
	t.Helper()
	if err := ascendRecords(tx, 1, func(rev Revision, raw []byte) bool {
		d, err := checkRecord(tx, raw, rev)
		if err != nil {
			t.Fatal(err)
		}
		key = makeChunkKey(d.upload, 0)
		stored = append([]byte(nil), tx.Get(engine.BucketChunks, key[:])...)
		return d.kind != bodyChunked
	}); err != nil || len(stored) == 0 {
		t.Fatalf("no value is in chunks; %v", err)
	}
	return key, stored
}

// A value that came into the log damaged, as it could when seals were not checked,
// is everybody's: a store that has it is not at fault.
func TestStore_Verify_ValueThatCameDamaged(t *testing.T) {
	t.Parallel()
	disks := newMemDisks()
	s := mustOpen(t, disks, StoreConfig{})
	f := newFlipped("k", 1, false)
	if _, err := applyTo(s, 1, 1, [][]byte{f.open, f.chunks[0], f.chunks[1], f.seal}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	change(t, disks.history, func(tx engine.Tx) error {
		k, v := sealedChunk(t, tx)
		ref, err := decodeChunkRow(v, k)
		if err != nil {
			return err
		}
		data := testBody(ref.Digest)
		data[len(data)-1] ^= 1
		ref = registerBody(data)
		return errors.Join(supply(s.bodies, ref), tx.Put(engine.BucketChunks, k[:], encodeChunkRow(k, ref)))
	})
	if err := s.Verify(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// reindex gives s an index that has only those keys of its own that are kept.
func reindex(t *testing.T, s *Store, kept func(key []byte, rev uint64) bool) {
	t.Helper()
	var keys []string
	var revs []uint64
	if err := s.index.Ascend(nil, func(key []byte, rev uint64) bool {
		if kept(key, rev) {
			keys, revs = append(keys, string(key)), append(revs, rev)
		}
		return true
	}); err != nil {
		t.Fatal(err)
	}
	mark := s.index.Mark()
	s.index = newIndex(t)
	addKeys(t, s.index, keys, revs, mark)
}

// addKeys adds keys to an index, with their revisions.
func addKeys(t *testing.T, index *keyruns.Index, keys []string, revs []uint64, mark keyruns.Mark) {
	t.Helper()
	if err := index.Add(t.Context(), func(yield func([]byte, uint64) bool) {
		for i, key := range keys {
			if !yield([]byte(key), revs[i]) {
				return
			}
		}
	}, len(keys), mark); err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, e engine.Engine, f func(engine.Tx) error) {
	t.Helper()
	if err := e.Update(f); err != nil {
		t.Fatal(err)
	}
}
