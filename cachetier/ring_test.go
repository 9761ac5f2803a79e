package cachetier

import (
	"fmt"
	"slices"
	"testing"
)

func TestRing_Owner_IsTheSameWhateverTheOrder(t *testing.T) {
	urls := []string{"http://a", "http://b", "http://c", "http://d"}
	reversed := slices.Clone(urls)
	slices.Reverse(reversed)
	a, b := newRing(urls), newRing(reversed)
	for i := range 1000 {
		key := fmt.Sprint(i)
		if a.owner(key) != b.owner(key) {
			t.Fatalf("key %s has owner %s and %s", key, a.owner(key), b.owner(key))
		}
	}
}

func TestRing_Owner_SpreadsEvenlyAndMovesLittle(t *testing.T) {
	const keys = 20_000
	urls := []string{"http://127.0.0.1:5551", "http://127.0.0.1:5552", "http://127.0.0.1:5553"}
	before, after := newRing(urls), newRing(append(slices.Clone(urls), "http://127.0.0.1:5554"))
	share, moved := map[string]int{}, 0
	for i := range keys {
		key := fmt.Sprintf("goproxy/module/@v/v1.%d.0.zip", i)
		share[before.owner(key)]++
		if was, is := before.owner(key), after.owner(key); was != is {
			moved++
			if is != "http://127.0.0.1:5554" {
				t.Fatalf("key %s moved from %s to %s, not to the new node", key, was, is)
			}
		}
	}
	for url, n := range share {
		if n < keys*30/100 || n > keys*37/100 {
			t.Errorf("%s owns %d of %d keys", url, n, keys)
		}
	}
	if moved < keys*22/100 || moved > keys*28/100 {
		t.Errorf("%d of %d keys moved for the fourth node", moved, keys)
	}
}

func TestRing_Owner_OfNobody(t *testing.T) {
	if owner := newRing(nil).owner("k"); owner != "" {
		t.Errorf("owner %q", owner)
	}
}

func TestShares_AddUpAndAreEven(t *testing.T) {
	nodes := []string{"http://a:1", "http://b:1", "http://c:1", "http://d:1"}
	sum := 0.0
	for url, share := range Shares(nodes) {
		sum += share
		if share < 0.22 || share > 0.28 {
			t.Errorf("%s owns %.3f of the keys, want about a quarter", url, share)
		}
	}
	if sum < 0.999 || sum > 1.001 {
		t.Errorf("the shares add up to %v", sum)
	}
	if got := Shares(nil); len(got) != 0 {
		t.Errorf("shares of nobody: %v", got)
	}
}
