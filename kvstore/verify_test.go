package kvstore

import (
	"context"
	"errors"
	"testing"
)

func TestStore_Verify_FindsWhatReadsCannot(t *testing.T) {
	damages := map[string]func(t *testing.T, d *memDisks){
		"none": func(*testing.T, *memDisks) {},
		"a key is gone from the index": func(t *testing.T, d *memDisks) {
			change(t, d.index, func(tx Tx) error {
				last, raw := tx.Seek(BucketIndex, nil)
				b, err := openIndexBlockIn(tx, last, raw)
				if err != nil {
					return err
				}
				w := indexBuilder{target: indexBlockBytes, emit: func(last, block []byte) error { return tx.Put(BucketIndex, last, block) }}
				r := b.reader()
				for r.next(); r.next(); { // but the first
					if err := w.add(r.key, r.rev); err != nil {
						return err
					}
				}
				return errors.Join(r.err, w.flush())
			})
		},
		"a record's last byte changed": func(t *testing.T, d *memDisks) {
			change(t, d.history, func(tx Tx) error {
				from := revisionKey(3)
				k, v := tx.Seek(BucketRecords, from[:])
				v = append([]byte(nil), v...)
				v[len(v)-1] ^= 1
				return tx.Put(BucketRecords, k, v)
			})
		},
		"two records changed places": func(t *testing.T, d *memDisks) {
			change(t, d.history, func(tx Tx) error {
				from := revisionKey(2)
				k, raw := tx.Seek(BucketRecords, from[:])
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
				return tx.Put(BucketRecords, k, encodeBlock(records, b.last, size))
			})
		},
	}
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			log, _ := script(t, 7, 120)
			disks := newMemDisks()
			s := mustOpen(t, disks, tiny())
			for i := range log {
				mustApply(t, s, &log[i])
			}
			if err := errors.Join(s.Commit(), s.FlushIndex()); err != nil {
				t.Fatal(err)
			}
			damage(t, disks)
			err := s.Verify(context.Background())
			if name == "none" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var corrupt *CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("Verify says %v", err)
			}
			if _, err := s.Get("anything"); !errors.As(err, &corrupt) {
				t.Fatalf("a store that failed Verify still answers: %v", err)
			}
		})
	}
}

func change(t *testing.T, e Engine, f func(Tx) error) {
	t.Helper()
	if err := e.Update(f); err != nil {
		t.Fatal(err)
	}
}
