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
			var victim []byte
			change(t, d.index, func(tx Tx) error {
				tx.Ascend(BucketKeys, nil, func(k, _ []byte) bool { victim = append([]byte(nil), k...); return false })
				return tx.Delete(BucketKeys, victim)
			})
		},
		"a record's last byte changed": func(t *testing.T, d *memDisks) {
			change(t, d.history, func(tx Tx) error {
				k := revisionKey(3)
				v := append([]byte(nil), tx.Get(BucketRecords, k[:])...)
				v[len(v)-1] ^= 1
				return tx.Put(BucketRecords, k[:], v)
			})
		},
		"two records changed places": func(t *testing.T, d *memDisks) {
			change(t, d.history, func(tx Tx) error {
				a, b := revisionKey(2), revisionKey(3)
				va := append([]byte(nil), tx.Get(BucketRecords, a[:])...)
				vb := append([]byte(nil), tx.Get(BucketRecords, b[:])...)
				return errors.Join(tx.Put(BucketRecords, a[:], vb), tx.Put(BucketRecords, b[:], va))
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
