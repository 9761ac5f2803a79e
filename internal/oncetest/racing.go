package oncetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// racers is the number of concurrent puts.
const racers = 16

// racer is one of several concurrent puts.
type racer struct {
	put    Put
	value  string
	result Result
	err    error
}

// race runs all puts at the same time.
func (t *trial) race(all []*racer) {
	start := make(chan struct{})
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			<-start
			r.put.Value = strings.NewReader(r.value)
			r.result, r.err = t.store.Put(t.Context(), r.put)
		})
	}
	close(start)
	wg.Wait()
}

// winner returns the only put that set the key.
func (t *trial) winner(all []*racer) *racer {
	t.Helper()
	var won *racer
	for _, r := range all {
		switch {
		case r.err != nil || !r.result.Created:
		case won != nil:
			t.Fatalf("two puts of %.90q at the same time have won: revisions %d and %d", r.put.Key, won.result.Revision, r.result.Revision)
		default:
			won = r
		}
	}
	if won == nil {
		t.Fatalf("no put of %.90q has won: %+v, %v", all[0].put.Key, all[0].result, all[0].err)
	}
	return won
}

// onePutWins: of many concurrent puts one wins, and all others learn which.
func onePutWins(t *trial) {
	for round := range 4 {
		var all []*racer
		for i := range racers {
			all = append(all, &racer{put: Put{Key: fmt.Sprintf("%s%d", t.prefix, round)}, value: fmt.Sprintf("value %d", i)})
		}
		t.race(all)
		won := t.winner(all)
		record := t.created(won.put, won.value, won.result)
		for _, r := range all {
			var lost *LostError
			if r != won && (!errors.As(r.err, &lost) || lost.Winner != winnerOf(record)) {
				t.Fatalf("a put of %.90q lost to %+v, and hears %+v, %v", r.put.Key, winnerOf(record), r.result, r.err)
			}
		}
	}
}

// oneSetsTheSame: of many concurrent puts of one value one has set it, and all succeed.
func oneSetsTheSame(t *trial) {
	for round := range 4 {
		var all []*racer
		for range racers {
			all = append(all, &racer{put: Put{Key: fmt.Sprintf("%s%d", t.prefix, round)}, value: "value"})
		}
		t.race(all)
		won := t.winner(all)
		record := t.created(won.put, won.value, won.result)
		for _, r := range all {
			if r != won && (r.err != nil || r.result != winnerOf(record)) {
				t.Fatalf("a put of the value that %.90q has: %+v, %v", r.put.Key, r.result, r.err)
			}
		}
	}
}

// manyKeysAtOnce: concurrent puts of many keys all win, each with its own revision, and no
// revision is left out.
func manyKeysAtOnce(t *trial) {
	before := t.create(Put{Key: t.prefix + "before"}, "value").Revision
	var all []*racer
	for i := range 8 * racers {
		all = append(all, &racer{put: Put{Key: fmt.Sprintf("%s%d", t.prefix, i)}, value: fmt.Sprintf("value %d", i)})
	}
	t.race(all)
	var revisions []uint64
	for _, r := range all {
		if r.err != nil || !r.result.Created {
			t.Fatalf("put %.90q, which is not set, beside others: %+v, %v", r.put.Key, r.result, r.err)
		}
		t.created(r.put, r.value, r.result)
		revisions = append(revisions, r.result.Revision)
	}
	slices.Sort(revisions)
	for i, revision := range revisions {
		if want := before + uint64(i) + 1; revision != want {
			t.Fatalf("of %d puts at the same time one has revision %d where %d comes next", len(all), revision, want)
		}
	}
}
