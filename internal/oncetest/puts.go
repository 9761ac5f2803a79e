package oncetest

import "github.com/Focinfi/oncekv/api"

// firstPutWins: later puts of other values change nothing.
func firstPutWins(t *trial) {
	key := t.prefix + "k"
	won := t.create(Put{Key: key, ContentType: "text/plain", Meta: map[string]string{"by": "first"}}, "one")
	for _, other := range []string{"two", "", "one and more", "on", "two"} {
		_, _ = t.put(Put{Key: key, ContentType: "image/png", Meta: map[string]string{"by": "later"}}, other)
		t.holds(won, "one")
	}
}

// sameValueAgain: a put of the present value succeeds, and sets nothing.
func sameValueAgain(t *trial) {
	key := t.prefix + "k"
	won := t.create(Put{Key: key, ContentType: "text/plain"}, "one")
	t.unchanged(Put{Key: key, ContentType: "text/plain"}, "one", won)
	t.unchanged(Put{Key: key, ContentType: "image/png", Meta: map[string]string{"by": "later"}}, "one", won)
	t.unchanged(Put{Key: key, PutID: "named"}, "one", won)
	t.unchanged(Put{Key: key, PutID: "named"}, "one", won)
	t.holds(won, "one")
}

// otherValueConflicts: a losing put learns who won.
func otherValueConflicts(t *trial) {
	key := t.prefix + "k"
	won := t.create(Put{Key: key}, "one")
	for _, other := range []string{"two", "", "one and more"} {
		t.loses(Put{Key: key}, other, won)
	}
	t.holds(won, "one")
}

// strictPuts: with IfAbsent, a put loses if the key is set at all, even to the same bytes.
func strictPuts(t *trial) {
	strict := Put{Key: t.prefix + "strict", IfAbsent: true}
	won := t.create(strict, "one")
	t.loses(strict, "one", won)
	t.loses(strict, "two", won)
	t.unchanged(Put{Key: strict.Key}, "one", won)
	won = t.create(Put{Key: t.prefix + "loose"}, "one")
	t.loses(Put{Key: won.Key, IfAbsent: true}, "one", won)
	t.loses(Put{Key: won.Key, IfAbsent: true, PutID: "named"}, "two", won)
	t.holds(won, "one")
}

// keepingPuts: with Keep, other bytes are not an error, and the winner stays.
func keepingPuts(t *trial) {
	keep := Put{Key: t.prefix + "k", Keep: true}
	won := t.create(keep, "one")
	t.unchanged(keep, "one", won)
	t.unchanged(keep, "two", won)
	t.unchanged(keep, "", won)
	t.loses(Put{Key: keep.Key}, "two", won)
	t.holds(won, "one")
}

// putIDRetried: a winning put is answered as the winner however often it is repeated.
func putIDRetried(t *trial) {
	named := Put{Key: t.prefix + "k", PutID: "try-~!1"}
	won := t.create(named, "one")
	again := func(p Put) {
		if result, err := t.put(p, "one"); err != nil || !result.Created || result.Revision != won.Revision || result.SHA256 != won.SHA256 {
			t.Fatalf("the put that won, repeated: %+v, %v", result, err)
		}
	}
	again(named)
	if t.can(IfAbsent) {
		again(Put{Key: named.Key, PutID: named.PutID, IfAbsent: true})
		t.loses(Put{Key: named.Key, PutID: named.PutID, IfAbsent: true}, "two", won)
	}
	if t.can(Keep) {
		again(Put{Key: named.Key, PutID: named.PutID, Keep: true})
	}
	t.unchanged(Put{Key: named.Key, PutID: "try-2"}, "one", won)
	t.unchanged(Put{Key: named.Key}, "one", won)
	t.loses(named, "two", won)
	again(named)
	other := t.create(Put{Key: t.prefix + "other", PutID: named.PutID}, "one") // an id is one key's
	t.holds(other, "one")
	t.holds(won, "one")
}

// foundForGood: a key is not found until it is set, and always found from then on, with the
// same bytes and record.
func foundForGood(t *trial) {
	key := t.prefix + "k"
	t.absent(key)
	t.absent(key)
	won := t.create(Put{Key: key, ContentType: "text/plain", PutID: "first", Meta: map[string]string{"by": "first"}}, "one")
	t.holds(won, "one")
	for _, p := range []Put{{Key: key}, {Key: key, PutID: "first"}, {Key: key, ContentType: "image/png"}, {Key: t.prefix + "other"}} {
		for _, value := range []string{"one", "two"} {
			_, _ = t.put(p, value)
			t.holds(won, "one")
		}
	}
	t.absent(t.prefix + "K")
}

// revisionsAreDense: a put that wins takes the next revision, and nothing else takes one.
func revisionsAreDense(t *trial) {
	last := t.create(Put{Key: t.prefix + "0"}, "zero").Revision
	wrong := digest("other")
	for i, between := range []func(){
		func() {},
		func() { t.unchanged(Put{Key: t.prefix + "0"}, "zero", t.stat(t.prefix+"0")) },
		func() { t.loses(Put{Key: t.prefix + "0"}, "two", t.stat(t.prefix+"0")) },
		func() { t.fails(Put{Key: t.prefix + "x", SHA256: &wrong}, "value", api.ErrDigestMismatch) },
		func() { t.fails(Put{Key: t.prefix + "x", PutID: "a b"}, "value", api.ErrInvalid) },
		func() { t.absent(t.prefix + "x") },
	} {
		between()
		next := t.create(Put{Key: t.prefix + string(rune('1'+i))}, "value").Revision
		if next != last+1 {
			t.Fatalf("put %d has revision %d, the one before it %d", i+1, next, last)
		}
		last = next
	}
}

// promisedDigest: a value that does not match its digest is not set.
func promisedDigest(t *trial) {
	right, wrong := digest("one"), digest("two")
	key := t.prefix + "k"
	t.fails(Put{Key: key, SHA256: &wrong}, "one", api.ErrDigestMismatch)
	won := t.create(Put{Key: key, SHA256: &right}, "one")
	t.unchanged(Put{Key: key, SHA256: &right}, "one", won)
	t.loses(Put{Key: key, SHA256: &wrong}, "two", won)
	t.holds(won, "one")
}
