package oncetest

import (
	"crypto/rand"
	"errors"
	"slices"
	"testing"
)

// property is something that a user may rely on.
type property struct {
	name  string
	needs Capability // empty: every store has it
	check func(*trial)
}

var properties = []property{
	{"FirstPutWins", "", firstPutWins},
	{"SameValueAgain", "", sameValueAgain},
	{"OtherValueConflicts", "", otherValueConflicts},
	{"IfAbsent", IfAbsent, strictPuts},
	{"Keep", Keep, keepingPuts},
	{"PutIDRetried", "", putIDRetried},
	{"FoundForGood", "", foundForGood},
	{"RevisionsAreDense", "", revisionsAreDense},
	{"PromisedDigest", "", promisedDigest},
	{"KeysAreBytes", "", keysAreBytes},
	{"KeyLengths", "", keyLengths},
	{"InvalidKeys", "", invalidKeys},
	{"EmptyValue", "", emptyValue},
	{"ValuesAreBytes", "", valuesAreBytes},
	{"LargeValues", "", largeValues},
	{"MetadataStays", "", metadataStays},
	{"InvalidMetadata", "", invalidMetadata},
	{"OnePutWins", "", onePutWins},
	{"OneSetsTheSame", "", oneSetsTheSame},
	{"ManyKeysAtOnce", "", manyKeysAtOnce},
	{"ListsAreOrdered", Listing, listsAreOrdered},
	{"ChangesAreComplete", Walking, changesAreComplete},
}

// Run checks every property of a store in its own subtest, one after the other. It calls
// open for each, which may return the same store every time.
func Run(t *testing.T, open func(t *testing.T) Store) {
	for _, p := range properties {
		t.Run(p.name, func(t *testing.T) { p.try(t, open(t)) })
	}
}

// try checks the property or, if the store declares that it lacks it, that it refuses it.
func (p property) try(r reporter, s Store) {
	for _, c := range s.Lacks() {
		if !slices.ContainsFunc(properties, func(p property) bool { return p.needs == c }) {
			r.Fatalf("the store lacks %q, which is no capability", c)
		}
	}
	t := &trial{reporter: r, store: s, prefix: "oncetest-" + rand.Text()[:8] + "/" + p.name + "/"}
	if p.needs != "" && !t.can(p.needs) {
		t.refuses(p.needs)
		return
	}
	p.check(t)
}

// refuses checks that a store refuses what it lacks.
func (t *trial) refuses(c Capability) {
	var err error
	switch key := t.prefix + "k"; c {
	case IfAbsent:
		_, err = t.put(Put{Key: key, IfAbsent: true}, "value")
	case Keep:
		_, err = t.put(Put{Key: key, Keep: true}, "value")
	case Listing:
		for _, err = range t.store.List(t.Context(), ListRange{}) {
			break
		}
	case Walking:
		for _, err = range t.store.Changes(t.Context(), 0, "") {
			break
		}
	}
	if !errors.Is(err, errors.ErrUnsupported) {
		t.Fatalf("the store declares that it lacks %q, and does not refuse it: %v", c, err)
	}
}
