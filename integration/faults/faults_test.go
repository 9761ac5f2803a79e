package faults

import (
	"fmt"
	"regexp"
	"slices"
	"testing"
	"time"
)

// TestEpisode plays every row of the fault matrix, each with a new seed.
func TestEpisode(t *testing.T) {
	needsMachine(t)
	wanted, err := regexp.Compile(run.rows)
	if err != nil {
		t.Fatalf("-row: %v", err)
	}
	var rows []row
	for _, r := range slices.Concat(processRows(), networkRows(), diskRows(), lostRows(), memberRows(), forceRows(), snapshotRows(), bodyRows(), cacheRows()) {
		if wanted.MatchString(r.name) {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		t.Fatalf("-row: no row matches %q", run.rows)
	}
	began := time.Now()
	seed := run.seed
	for round := 0; round < run.episodes || time.Since(began) < run.lasting; round++ {
		t.Run(fmt.Sprintf("round-%d", round+1), func(t *testing.T) {
			for _, r := range rows {
				t.Run(r.name, func(t *testing.T) {
					t.Parallel() // as many as -parallel says; most of an episode waits
					play(t, r, seed)
				})
			}
		})
		seed++
	}
}
