package kvstore

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// A commit that fills up the block before it must not make a damaged block look
// like a sound one.
func TestStore_Commit_DamagedLastBlock(t *testing.T) {
	t.Parallel()
	d := newMemDisks()
	s := mustOpen(t, d, tiny())
	put := func(i int) {
		t.Helper()
		if _, err := applyTo(s, uint64(i), 1, [][]byte{testPut(Key(fmt.Sprint("k", i)), "id", "", []byte("v"), time.Unix(0, 0))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= 10; i++ {
		put(i)
	}
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	damageFirst(t, d.history, engine.BucketRecords, 4) // one bit, of the format
	put(11)
	err := s.Commit()
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		t.Errorf("the commit took a damaged block in: %v", err)
	}
}
