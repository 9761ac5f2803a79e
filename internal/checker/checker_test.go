package checker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// model is a key that is set once, for porcupine's search. The state is the key's value, nil
// while it is not set.
var model = porcupine.Model{
	Init: func() any { return (*string)(nil) },
	Step: func(state, input, _ any) (bool, any) {
		set, o := state.(*string), input.(Op)
		switch o.Outcome {
		case Created:
			return set == nil, &o.Value
		case Unchanged:
			return set == nil || *set == o.Value, &o.Value
		case Conflict:
			return set != nil && *set == o.Seen && *set != o.Value, set
		case Found:
			return set != nil && *set == o.Seen, set
		case Absent:
			return set == nil, set
		}
		if set == nil {
			set = &o.Value
		}
		return true, set
	},
	Equal: func(a, b any) bool {
		x, y := a.(*string), b.(*string)
		return x == y || x != nil && y != nil && *x == *y
	},
}

func searched(ops []Op) bool {
	var all []porcupine.Operation
	for i, o := range ops {
		if o.Outcome == Unknown {
			o.Return = Never
		}
		all = append(all, porcupine.Operation{ClientId: i, Input: o, Call: o.Call, Return: o.Return})
	}
	return porcupine.CheckOperations(model, all)
}

// random makes a history of one key. Half of the histories are what clients of a correct key
// could have seen, some with one change; the others are arbitrary.
func random(r *rand.Rand) []Op {
	ops := make([]Op, 1+r.IntN(7))
	values := []string{"a", "b", "c"}[:1+r.IntN(3)]
	pick := func() string { return values[r.IntN(len(values))] }
	span := int64(1 + r.IntN(20))
	for i := range ops {
		call := r.Int64N(span)
		ops[i] = Op{Outcome: Outcome(r.IntN(6)), Value: pick(), Seen: pick(), Call: call, Return: call + r.Int64N(span)}
	}
	if r.IntN(2) == 0 {
		return ops
	}
	truth(r, ops)
	if r.IntN(2) == 0 {
		o := &ops[r.IntN(len(ops))]
		switch r.IntN(4) {
		case 0:
			o.Outcome = Outcome(r.IntN(6))
		case 1:
			o.Seen = pick()
		case 2:
			o.Return += r.Int64N(span) - span/2
			o.Return = max(o.Return, o.Call)
		case 3:
			o.Call = r.Int64N(o.Return + 1)
		}
	}
	return ops
}

// truth answers the requests like a key that handles each at some moment of its interval.
func truth(r *rand.Rand, ops []Op) {
	order := r.Perm(len(ops))
	at := make([]int64, len(ops))
	for i, o := range ops {
		at[i] = o.Call + r.Int64N(o.Return-o.Call+1)
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(at[a] - at[b]) })
	var set *string
	for _, i := range order {
		o := &ops[i]
		switch put := o.Outcome != Found && o.Outcome != Absent; {
		case !put && set == nil:
			o.Outcome = Absent
		case !put:
			o.Outcome, o.Seen = Found, *set
		case set == nil:
			value := o.Value
			set = &value
			o.Outcome = []Outcome{Created, Created, Unknown, Unchanged}[r.IntN(4)]
		case r.IntN(4) == 0:
			o.Outcome = Unknown
		case *set == o.Value:
			o.Outcome = Unchanged
		default:
			o.Outcome, o.Seen = Conflict, *set
		}
	}
}

// The checker decides in one pass what a search of all orders decides.
func TestCheck_AgreesWithSearch(t *testing.T) {
	histories := 200_000
	if testing.Short() {
		histories = 20_000
	}
	legal := 0
	for seed := range uint64(histories) {
		ops := random(rand.New(rand.NewPCG(seed, 0)))
		found := Check(ops)
		want := searched(ops)
		if want {
			legal++
		}
		if (len(found) == 0) != want {
			text := ""
			for _, o := range ops {
				text += "\n" + o.String()
			}
			t.Fatalf("seed %d: the search says %v, the checker %v, about%s", seed, want, found, text)
		}
	}
	if legal < histories/4 || legal > histories*3/4 {
		t.Errorf("%d of %d histories are legal: the test is lopsided", legal, histories)
	}
	t.Logf("%d histories, %d legal", histories, legal)
}

func TestCheck_Revisions(t *testing.T) {
	put := func(key string, revision uint64, call, ret int64) Op {
		return Op{Key: key, Outcome: Created, Value: "v", Revision: revision, Call: call, Return: ret}
	}
	absent := func(key string, call, ret int64) Op { return Op{Key: key, Outcome: Absent, Call: call, Return: ret} }
	for name, tt := range map[string]struct {
		ops []Op
		ok  bool
	}{
		"in order":                            {[]Op{put("a", 1, 0, 1), put("b", 2, 2, 3)}, true},
		"at the same time, either order":      {[]Op{put("a", 2, 0, 9), put("b", 1, 0, 9)}, true},
		"later but smaller":                   {[]Op{put("a", 2, 0, 1), put("b", 1, 2, 3)}, false},
		"of two keys":                         {[]Op{put("a", 1, 0, 9), put("b", 1, 0, 9)}, false},
		"two of a key":                        {[]Op{put("a", 1, 0, 9), {Key: "a", Outcome: Found, Seen: "v", Revision: 2, Call: 0, Return: 9}}, false},
		"through a third":                     {[]Op{put("a", 1, 5, 6), put("b", 2, 0, 9), put("c", 3, 0, 3)}, false},
		"held back by an absence":             {[]Op{put("a", 1, 0, 9), absent("a", 7, 8), put("b", 2, 0, 6)}, false},
		"an absence that may have come first": {[]Op{put("a", 1, 0, 9), absent("a", 5, 8), put("b", 2, 0, 6)}, true},
	} {
		if found := Check(tt.ops); (len(found) == 0) != tt.ok {
			t.Errorf("%s: %v", name, found)
		}
	}
}

// Each contradiction has its sentence, which shows who saw what.
func TestCheck_Says(t *testing.T) {
	for want, ops := range map[string][]Op{
		"two values were seen":                                   {{Outcome: Found, Seen: "a"}, {Outcome: Found, Seen: "b"}, {Outcome: Unknown, Value: "a"}},
		"two puts created it":                                    {{Outcome: Created, Value: "a"}, {Outcome: Created, Value: "a"}},
		"nobody has put what was seen":                           {{Outcome: Found, Seen: "a"}, {Outcome: Unknown, Value: "b"}},
		"it was seen set before anybody put it":                  {{Outcome: Found, Seen: "a", Return: 1}, {Outcome: Created, Value: "a", Call: 2, Return: 3}},
		"it was seen set, and later not set":                     {{Outcome: Created, Value: "a", Return: 1}, {Outcome: Absent, Call: 2, Return: 3}},
		"a put was refused although the key is set to its bytes": {{Outcome: Conflict, Value: "a", Seen: "a"}, {Outcome: Unknown, Value: "a"}},
	} {
		found := Check(ops)
		if len(found) != 1 || found[0].What != want || len(found[0].Ops) == 0 || found[0].Error() == "" {
			t.Errorf("want %q: %v", want, found)
		}
	}
}

// Only their revisions connect keys with one another.
func TestCheck_ManyKeys(t *testing.T) {
	var ops []Op
	for i := range 1000 {
		key := fmt.Sprint(i)
		ops = append(ops, Op{Key: key, Outcome: Created, Value: key, Revision: uint64(i + 1), Call: int64(i), Return: int64(i + 1)}, Op{Key: key, Outcome: Found, Seen: key, Call: 0, Return: 2000})
	}
	if found := Check(ops); len(found) != 0 {
		t.Error(found)
	}
	ops = append(ops, Op{Key: "500", Outcome: Absent, Call: 502, Return: 503})
	if found := Check(ops); len(found) != 1 || found[0].Key != "500" {
		t.Error(found)
	}
}

func BenchmarkCheck(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 0))
	var ops []Op
	for i := range 100_000 {
		call := r.Int64N(1 << 20)
		ops = append(ops, Op{Key: fmt.Sprint(i % 10_000), Outcome: Found, Seen: "v", Call: call, Return: call + 10})
	}
	for b.Loop() {
		Check(ops)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(ops)), "ns/op-checked")
}
