package main

import "testing"

func TestPlaces(t *testing.T) {
	for processors, want := range map[int]int{1: 4, 2: 8, 8: 32, 16: 32, 64: 64} {
		if got := places(processors); got != want {
			t.Errorf("%d places on %d processors, want %d", got, processors, want)
		}
	}
}
