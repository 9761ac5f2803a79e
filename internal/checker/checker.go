package checker

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Outcome is the answer to a request.
type Outcome uint8

// The outcomes. The first four see the key set.
const (
	Created   Outcome = iota // a put: it set the key
	Unchanged                // a put: the key is set to these bytes
	Conflict                 // a put: the key is set to other bytes, Seen
	Found                    // a get: the key is set to Seen
	Absent                   // a get: the key is not set
	Unknown                  // a put without an answer, or whose answer says that the outcome is unknown
)

// String returns the outcome as a test prints it.
func (o Outcome) String() string {
	names := [...]string{"created", "unchanged", "conflict", "found", "absent", "unknown"}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("outcome %d", uint8(o))
}

// Never is the return of an Op whose outcome is Unknown.
const Never = math.MaxInt64

// Op is one request as its client saw it. Values are compared as strings: the bytes
// themselves, or a digest of them.
type Op struct {
	Key     string
	Outcome Outcome
	Value   string // of a put: what it offered
	Seen    string // of Conflict and Found: what the key is set to

	// Revision is the answer's revision; 0 if it has none.
	Revision uint64

	// Call and Return are readings of one monotonic clock, before the request was sent and
	// after its answer had arrived. Return is ignored with Unknown.
	Call, Return int64

	// Who tells people which client asked which node.
	Who string
}

// value returns the value that the Op saw; false if it saw none.
func (o *Op) value() (string, bool) {
	switch o.Outcome {
	case Created, Unchanged:
		return o.Value, true
	case Conflict, Found:
		return o.Seen, true
	}
	return "", false
}

// String returns the Op in one line.
func (o Op) String() string {
	text := fmt.Sprintf("%s %q", o.Outcome, o.Key)
	if o.Outcome != Found && o.Outcome != Absent {
		text += fmt.Sprintf(" put %q", brief(o.Value))
	}
	if o.Outcome == Conflict || o.Outcome == Found {
		text += fmt.Sprintf(" saw %q", brief(o.Seen))
	}
	if o.Revision != 0 {
		text += fmt.Sprintf(" revision %d", o.Revision)
	}
	if o.Outcome == Unknown {
		return text + fmt.Sprintf(" [%d, …] %s", o.Call, o.Who)
	}
	return text + fmt.Sprintf(" [%d, %d] %s", o.Call, o.Return, o.Who)
}

func brief(s string) string {
	if len(s) > 16 {
		return s[:16] + "…"
	}
	return s
}

// Violation is an impossible combination of what clients saw.
type Violation struct {
	Key  string
	What string // a sentence
	Ops  []Op   // those that contradict one another
}

// Error returns the sentence and the Ops behind it.
func (v Violation) Error() string {
	text := fmt.Sprintf("key %q: %s", v.Key, v.What)
	for _, o := range v.Ops {
		text += "\n\t" + o.String()
	}
	return text
}

// Check returns the contradictions in a history, none if it is linearizable: at most one
// Violation a key, by key, and then at most one about the order of revisions. ops may be in
// any order. It takes time linear in ops, except for sorting the keys, and memory for pointers
// to them.
func Check(ops []Op) []Violation {
	keys := map[string]*register{}
	for i := range ops {
		o := &ops[i]
		r := keys[o.Key]
		if r == nil {
			r = &register{}
			keys[o.Key] = r
		}
		r.add(o)
	}
	var found []Violation
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if what, ops := keys[key].violation(); what != "" {
			found = append(found, violation(key, what, ops...))
		}
	}
	if len(found) == 0 {
		found = checkRevisions(keys)
	}
	return found
}

func violation(key, what string, ops ...*Op) Violation {
	v := Violation{Key: key, What: what}
	for _, o := range ops {
		if o != nil {
			v.Ops = append(v.Ops, *o)
		}
	}
	return v
}

// register is what is known of one key. It keeps the Ops that bound the moment at which the
// key was set, and the first contradiction.
type register struct {
	set     *Op // the first that saw the key set
	created *Op
	first   map[string]*Op // by value: the earliest call of a put of it that may have set it
	absent  *Op            // the latest call that found nothing
	seen    *Op            // the earliest return that saw the key set
	number  *Op            // the first that told a revision

	what string
	ops  []*Op
}

func (r *register) add(o *Op) {
	if o.Outcome == Absent {
		if r.absent == nil || o.Call > r.absent.Call {
			r.absent = o
		}
		return
	}
	if o.Outcome == Unknown || o.Outcome == Unchanged {
		if r.first == nil {
			r.first = map[string]*Op{}
		}
		if c := r.first[o.Value]; c == nil || o.Call < c.Call {
			r.first[o.Value] = o
		}
	}
	value, ok := o.value()
	if !ok {
		return
	}
	if r.set == nil {
		r.set = o
	}
	if r.seen == nil || o.Return < r.seen.Return {
		r.seen = o
	}
	if o.Revision != 0 && r.number == nil {
		r.number = o
	}
	switch known, _ := r.set.value(); {
	case value != known:
		r.contradiction("two values were seen", r.set, o)
	case o.Outcome == Created && r.created != nil:
		r.contradiction("two puts created it", r.created, o)
	case o.Outcome == Conflict && o.Value == o.Seen:
		r.contradiction("a put was refused although the key is set to its bytes", o)
	case o.Revision != 0 && o.Revision != r.number.Revision:
		r.contradiction("it has two revisions", r.number, o)
	}
	if o.Outcome == Created {
		r.created = o
	}
}

func (r *register) contradiction(what string, ops ...*Op) {
	if r.what == "" {
		r.what, r.ops = what, ops
	}
}

// candidate returns the put that may have set the key, the earliest if there are several, nil
// if nobody has put the value that was seen.
func (r *register) candidate() *Op {
	if r.created != nil {
		return r.created
	}
	value, _ := r.set.value()
	return r.first[value]
}

// bounds returns the earliest and the latest moment at which the key can have been set.
func (r *register) bounds() (from, to int64) {
	from = r.candidate().Call
	if r.absent != nil {
		from = max(from, r.absent.Call)
	}
	return from, r.seen.Return
}

func (r *register) violation() (what string, ops []*Op) {
	switch {
	case r.what != "":
		return r.what, r.ops
	case r.set == nil:
		return "", nil // nobody saw it set
	case r.candidate() == nil:
		return "nobody has put what was seen", []*Op{r.set}
	}
	from, to := r.bounds()
	switch {
	case from <= to:
		return "", nil
	case from == r.candidate().Call:
		return "it was seen set before anybody put it", []*Op{r.seen, r.candidate()}
	}
	return "it was seen set, and later not set", []*Op{r.candidate(), r.seen, r.absent}
}

// checkRevisions compares keys with one another: each revision belongs to one key, and their
// order is one in which the keys can have been set.
func checkRevisions(keys map[string]*register) []Violation {
	type numbered struct {
		key      string
		revision uint64
		*register
	}
	var all []numbered
	for key, r := range keys {
		if r.number != nil {
			all = append(all, numbered{key, r.number.Revision, r})
		}
	}
	slices.SortFunc(all, func(a, b numbered) int {
		return cmp.Or(cmp.Compare(a.revision, b.revision), cmp.Compare(a.key, b.key))
	})
	latest := int64(math.MinInt64)
	var by numbered
	for i, n := range all {
		if i > 0 && n.revision == all[i-1].revision {
			return []Violation{violation(n.key, "its revision is that of another key, "+all[i-1].key, all[i-1].number, n.number)}
		}
		from, to := n.bounds()
		if from > latest {
			latest, by = from, n
		}
		if latest > to {
			return []Violation{violation(n.key, "its revision is greater than that of "+by.key+", which was set later", by.candidate(), by.absent, n.candidate(), n.seen)}
		}
	}
	return nil
}
