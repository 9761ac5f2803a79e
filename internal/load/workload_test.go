package load

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestZipf_Frequencies(t *testing.T) {
	const draws = 50_000
	for _, theta := range []float64{0.5, 0.99, 1, 2} {
		for _, n := range []uint64{1, 2, 10, 1000} {
			z, err := NewZipf(n, theta)
			if err != nil {
				t.Fatal(err)
			}
			random := rand.New(rand.NewPCG(1, 2))
			got := make([]float64, n)
			for range draws {
				got[z.Next(random)]++ // panics above n-1
			}
			sum := 0.0
			for k := range n {
				sum += math.Pow(float64(k+1), -theta)
			}
			for k := range n {
				p := math.Pow(float64(k+1), -theta) / sum
				want, deviation := p*draws, math.Sqrt(p*(1-p)*draws)
				if math.Abs(got[k]-want) > 5*deviation+1 {
					t.Errorf("theta %v of %d keys: rank %d came %v times, want %.0f±%.0f", theta, n, k, got[k], want, deviation)
				}
			}
		}
	}
	for _, bad := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if _, err := NewZipf(10, bad); err == nil {
			t.Errorf("there is a distribution with theta %v", bad)
		}
	}
}

func newData(t *testing.T, cfg DataConfig) *Data {
	t.Helper()
	d, err := NewData(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestData_KeysAndValues(t *testing.T) {
	cfg := DataConfig{Prefix: "b/", Seed: 7, KeySize: Size{Min: 20, Max: 40}, ValueSize: Size{Min: 1, Max: 100}}
	d, again := newData(t, cfg), newData(t, cfg)
	seen := map[string]bool{}
	for n := range uint64(5000) {
		i := d.Item(n)
		if seen[i.Key] || len(i.Key) < 20 || len(i.Key) > 40 || !strings.HasPrefix(i.Key, "b/") || len(i.Value) < 1 || len(i.Value) > 100 {
			t.Fatalf("item %d: %q of %d bytes", n, i.Key, len(i.Value))
		}
		seen[i.Key] = true
		if other := again.Item(n); !reflect.DeepEqual(i, other) {
			t.Fatalf("item %d is %v, and another time %v", n, i, other)
		}
	}
	ordered := newData(t, DataConfig{Prefix: "b/", KeySize: Fixed(18), Ordered: true})
	for n := range uint64(1000) {
		if ordered.Key(n) >= ordered.Key(n+1) {
			t.Fatalf("%q is before %q", ordered.Key(n), ordered.Key(n+1))
		}
	}
	if _, err := NewData(DataConfig{Prefix: "b/", KeySize: Fixed(17)}); err == nil {
		t.Error("a number of 16 digits was put into 15")
	}
}

// A store may be full of an earlier version's puts: as long as DataVersion is the same, the
// same seed must give the same keys and values.
func TestData_StaysTheSame(t *testing.T) {
	d := newData(t, DataConfig{Prefix: "bench/d/", Seed: 1, KeySize: Fixed(32), ValueSize: Size{Min: 64, Max: 4096}})
	sum := sha256.New()
	for n := range uint64(100) {
		fmt.Fprintf(sum, "%s=%s\n", d.Key(n), d.Value(n))
	}
	const key, digest = "bench/d/kkkkkkkk5e41ab087439611e", "3b99056cd70ea60d9e4b4a33db688b215c6c6b79b9fbcee3398767111ca52c7c"
	if got := hex.EncodeToString(sum.Sum(nil)); d.Key(0) != key || got != digest {
		t.Errorf("the first key is %s and the digest of all is %s, want %s and %s", d.Key(0), got, key, digest)
	}
}

func TestSize(t *testing.T) {
	for text, mean := range map[string]float64{"256": 256, "4KiB": 4096, "0": 0, "64-4096": 2080, "zipf:64-4096": 4032 / math.Log(4097.0/64)} {
		var s Size
		if err := s.Set(text); err != nil || s.String() != text {
			t.Fatalf("%s: %v, %v", text, s.String(), err)
		}
		random := rand.New(rand.NewPCG(1, 2))
		sum := 0.0
		for range 100_000 {
			n := s.at(random.Uint64())
			if n < s.Min || n > s.Max {
				t.Fatalf("%s: %d", text, n)
			}
			sum += float64(n)
		}
		if got := sum / 100_000; math.Abs(got-mean) > mean/50 {
			t.Errorf("%s: the mean is %v, want %v", text, got, mean)
		}
	}
	for _, text := range []string{"", "x", "-1", "9-3", "1-", "zipf:5", "zipf:0-5", "64-4096-5"} {
		if new(Size).Set(text) == nil {
			t.Errorf("%q is a size", text)
		}
	}
}

// requests returns the requests of one caller.
func requests(t *testing.T, seed uint64, n int) []Request {
	t.Helper()
	mix, err := ParseMix("get=50,put=20,absent=20,batch=10")
	if err != nil {
		t.Fatal(err)
	}
	pick, err := ParsePicker("zipf:0.99", 1000)
	if err != nil {
		t.Fatal(err)
	}
	w := &Workload{
		Mix: mix, Pick: pick, BatchKeys: 3,
		Reads: newData(t, DataConfig{Prefix: "r/", Seed: seed, KeySize: Fixed(20), ValueSize: Fixed(8)}),
		Puts:  newData(t, DataConfig{Prefix: "p/", Seed: seed, KeySize: Fixed(20), ValueSize: Fixed(8)}),
	}
	random := rand.New(rand.NewPCG(seed, 1))
	var all []Request
	for range n {
		var r Request
		w.Next(random, &r)
		all = append(all, r)
	}
	return all
}

func TestWorkload_SeedRepeats(t *testing.T) {
	if !reflect.DeepEqual(requests(t, 5, 500), requests(t, 5, 500)) {
		t.Error("the same seed made other requests")
	}
	if reflect.DeepEqual(requests(t, 5, 500), requests(t, 6, 500)) {
		t.Error("another seed made the same requests")
	}
}

func TestWorkload_Mix(t *testing.T) {
	reads := newData(t, DataConfig{Prefix: "r/", Seed: 5, KeySize: Fixed(20), ValueSize: Fixed(8)})
	isSet := map[string]bool{}
	for n := range uint64(1000) {
		isSet[reads.Key(n)] = true
	}
	count := map[Kind]int{}
	put := map[string]bool{}
	for _, r := range requests(t, 5, 10_000) {
		count[r.Kind]++
		items := r.Items
		if r.Kind == Put {
			items = []Item{r.Item}
		}
		for _, i := range items {
			if put[i.Key] {
				t.Fatalf("%q is put twice", i.Key)
			}
			put[i.Key] = true
		}
		switch {
		case r.Kind == Get && (!isSet[r.Key] || len(r.Value) != 8), r.Kind == Absent && isSet[r.Key]:
			t.Fatalf("%v of %q", r.Kind, r.Key)
		case r.Kind == Batch && len(r.Items) != 3:
			t.Fatalf("%d items", len(r.Items))
		}
	}
	for k, want := range map[Kind]int{Get: 5000, Put: 2000, Absent: 2000, Batch: 1000} {
		if math.Abs(float64(count[k]-want)) > 200 {
			t.Errorf("%v came %d times of 10,000, want %d", k, count[k], want)
		}
	}
}

func TestPicker(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for text, first := range map[string]int{"sequential": 1000, "uniform": 1000, "zipf": 3414} {
		pick, err := ParsePicker(text, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got [10]int
		for range 10_000 {
			got[pick(random)]++
		}
		if math.Abs(float64(got[0]-first)) > 200 {
			t.Errorf("%s: %v", text, got)
		}
	}
	for _, bad := range []string{"", "normal", "zipf:", "zipf:x", "zipf:0", "uniform:1"} {
		if _, err := ParsePicker(bad, 10); err == nil {
			t.Errorf("%q is a distribution", bad)
		}
	}
	for _, bad := range []string{"", "get", "get=0", "get=-1", "get=1,", "scan=1", "get=1;put=1"} {
		if _, err := ParseMix(bad); err == nil {
			t.Errorf("%q is a mix", bad)
		}
	}
	if m, err := ParseMix("get=9,put=1"); err != nil || !m.Several() || m.Has(Batch) || Only(Get).Several() {
		t.Error(m, err)
	}
	if slices.Contains(kindNames[:], "") || slices.Contains(outcomeNames[:], "") {
		t.Error("something has no name")
	}
}
