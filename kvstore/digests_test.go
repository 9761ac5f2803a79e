package kvstore

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"
)

// Stores with the same history have the same digest at every position, be the records
// in history or not yet; and nobody has one of what is still to come.
func TestStore_Digest_AtEveryPosition(t *testing.T) {
	t.Parallel()
	a, b := mustOpen(t, newMemDisks(), tiny()), mustOpen(t, newMemDisks(), tiny())
	const revisions, wrongFrom = 40, 31
	for i := range revisions {
		for _, s := range []*Store{a, b} {
			value := "v"
			if s == b && i+1 == wrongFrom {
				value = "what nobody put"
			}
			if _, err := applyTo(s, uint64(1+i), 1, [][]byte{testPut(Key(fmt.Sprint("k", i)), "p", "", []byte(value), time.Unix(0, 0))}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if i == revisions/2 {
			if err := a.Commit(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if got := a.Position(); got != revisions {
		t.Fatalf("it stands at %d", got)
	}
	for at := range uint64(revisions + 1) {
		x, err := a.Digest(at)
		if err != nil {
			t.Fatal(err)
		}
		y, err := b.Digest(at)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(x, y) != (at < wrongFrom) {
			t.Errorf("at %d: %x and %x", at, x, y)
		}
	}
	if _, err := a.Digest(revisions + 1); !errors.Is(err, errBehind) {
		t.Errorf("beyond the end: %v", err)
	}
}
