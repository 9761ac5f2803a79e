package cachetier

import (
	"fmt"
	"slices"
	"testing"
)

func TestRing_Owner_IsTheSameWhateverTheOrder(t *testing.T) {
	t.Parallel()
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

// ringNodes makes count URLs that look alike, as those of one fleet do, and
// some that differ in a single bit or in nothing but their order.
func ringNodes(count int) []string {
	urls := []string{"http://a:1", "http://a:2", "http://b:1", "http://aa:1", "http://10.0.0.1:5551", "http://10.0.0.1:5515", "http://10.0.0.15:551"}
	for i := 0; len(urls) < count; i++ {
		urls = append(urls, fmt.Sprintf("http://cache-%d.cache.default.svc.cluster.local:5551", i))
	}
	return urls[:count]
}

// ringKeys makes keys that look alike: what only a weak hash tells apart badly.
func ringKeys() []string {
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("goproxy/example.com/module/@v/v1.%d.0.zip", i)
	}
	return keys
}

// The largest share is at most a tenth over the mean, and a node that leaves
// moves its own keys and no others.
func TestRing_Owner_SpreadsEvenlyAndMovesLittle(t *testing.T) {
	t.Parallel()
	keys := ringKeys()
	for _, count := range []int{3, 10, 50} {
		urls := ringNodes(count)
		leaver := urls[count/2]
		before, after := newRing(urls), newRing(slices.Concat(urls[:count/2], urls[count/2+1:]))
		share := map[string]int{}
		moved := 0
		for _, key := range keys {
			was, is := before.owner(key), after.owner(key)
			share[was]++
			if was != is {
				moved++
			}
			if (was != is) != (was == leaver) {
				t.Fatalf("%d nodes: key %s was %s's and is %s's after %s left", count, key, was, is, leaver)
			}
		}
		largest := 0
		for _, n := range share {
			largest = max(largest, n)
		}
		spread := float64(largest) * float64(count) / float64(len(keys))
		part := float64(moved) * float64(count) / float64(len(keys))
		t.Logf("%d nodes, %d keys: largest share %.4f of the mean, %.4f/n of the keys moved", count, len(keys), spread, part)
		if spread > 1.10 || len(share) != count {
			t.Errorf("%d of %d nodes own keys, the largest share is %.3f of the mean, want 1.10 at most", len(share), count, spread)
		}
		if part > 1.10 {
			t.Errorf("%.3f/n of the keys moved when one of %d nodes left, want 1.1/n at most", part, count)
		}
	}
}

func BenchmarkRing_Owner(b *testing.B) {
	for _, count := range []int{3, 10, 50} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			r := newRing(ringNodes(count))
			b.ReportAllocs()
			for b.Loop() {
				r.owner("goproxy/example.com/module/@v/v1.4711.0.zip")
			}
		})
	}
}

func TestRing_Owner_OfNobody(t *testing.T) {
	t.Parallel()
	if owner := newRing(nil).owner("k"); owner != "" {
		t.Errorf("owner %q", owner)
	}
}

func TestShares_AddUpAndAreEven(t *testing.T) {
	t.Parallel()
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
