package oncetest

import (
	"iter"
	"slices"
	"strings"
)

// walk reads a list or changes to the end.
func (t *trial) walk(what string, all iter.Seq2[Record, error]) []Record {
	t.Helper()
	var records []Record
	for record, err := range all {
		if err != nil {
			t.Fatalf("%s, after %d records: %v", what, len(records), err)
		}
		records = append(records, record)
	}
	return records
}

// gives checks that a walk yields exactly some records. A list may omit their times.
func (t *trial) gives(what string, got, want []Record) {
	t.Helper()
	for i, record := range got {
		if i == len(want) {
			t.Fatalf("%s: %.90q is too much, after %d records", what, record.Key, i)
		}
		if record.Time.IsZero() && what != walkChanges {
			record.Time = want[i].Time
		}
		if record.Key != want[i].Key {
			t.Fatalf("%s: record %d is %.90q, want %.90q", what, i, record.Key, want[i].Key)
		}
		if err := differ(record, want[i]); err != nil {
			t.Fatalf("%s: %.90q: %v", what, record.Key, err)
		}
	}
	if len(got) < len(want) {
		t.Fatalf("%s: %.90q is missing, after %d records", what, want[len(got)].Key, len(got))
	}
}

const (
	walkList    = "list keys"
	walkChanges = "read changes"
)

// some sets some keys, and returns their records in the order of their revisions.
func (t *trial) some() []Record {
	t.Helper()
	var records []Record
	for i, key := range append(hardKeys(t.prefix + "some/")[:40], t.prefix+"z", t.prefix+"\xff", t.prefix+"some", t.prefix+"\x01") {
		if !strings.HasPrefix(key, t.prefix) {
			continue
		}
		p := Put{Key: key}
		if i%3 == 0 {
			p.ContentType, p.Meta = "text/plain", map[string]string{"name": "value"}
		}
		records = append(records, t.create(p, "value of "+key))
		if i%4 == 0 {
			_, _ = t.put(Put{Key: key}, "other")
		}
	}
	return records
}

// listsAreOrdered: a list has every key once, in byte order, however it is fetched.
func listsAreOrdered(t *trial) {
	all := t.some()
	slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.Key, b.Key) })
	of := func(prefix, after string) (some []Record) {
		for _, r := range all {
			if strings.HasPrefix(r.Key, prefix) && r.Key > after {
				some = append(some, r)
			}
		}
		return some
	}
	check := func(r ListRange) {
		t.Helper()
		t.gives(walkList, t.walk(walkList, t.store.List(t.Context(), r)), of(r.Prefix, r.After))
	}
	for _, page := range []int{0, 1, 3, len(all), len(all) + 1} {
		check(ListRange{Prefix: t.prefix, Page: page})
	}
	for _, prefix := range []string{"some", "some/", "some/a", "some/%2", "\xff", "nothing"} {
		check(ListRange{Prefix: t.prefix + prefix, Page: 2})
	}
	for _, after := range []string{t.prefix, all[0].Key, all[len(all)/2].Key, all[len(all)/2].Key + "\x01", all[len(all)-1].Key} {
		check(ListRange{Prefix: t.prefix, After: after, Page: 4})
	}
	all = append(all, t.create(Put{Key: t.prefix + "\xff\xff"}, "value"))
	check(ListRange{Prefix: t.prefix})

	last := ""
	var ours []Record
	for _, r := range t.walk(walkList, t.store.List(t.Context(), ListRange{})) {
		if r.Key <= last {
			t.Fatalf("%s: %.90q comes after %.90q", walkList, r.Key, last)
		}
		if last = r.Key; strings.HasPrefix(r.Key, t.prefix) {
			ours = append(ours, r)
		}
	}
	t.gives(walkList, ours, all)
	for range t.store.List(t.Context(), ListRange{Prefix: t.prefix, Page: 1}) {
		break // and nothing is waited for
	}
}

// changesAreComplete: changes are all winning puts, once each, in the order of revisions.
func changesAreComplete(t *trial) {
	before := t.create(Put{Key: t.prefix + "before"}, "value")
	all := t.some()
	check := func(since uint64, prefix string) {
		t.Helper()
		var want []Record
		for _, r := range all {
			if r.Revision > since && strings.HasPrefix(r.Key, prefix) {
				want = append(want, r)
			}
		}
		t.gives(walkChanges, t.walk(walkChanges, t.store.Changes(t.Context(), since, prefix)), want)
	}
	newest := all[len(all)-1].Revision
	for _, since := range []uint64{before.Revision, before.Revision + 1, newest - 1, newest} {
		check(since, "")
		check(since, t.prefix+"some/a")
	}
	check(before.Revision, t.prefix+"nothing")
	t.loses(Put{Key: before.Key}, "other", before)
	check(newest, "")
	all = append(all, t.create(Put{Key: t.prefix + "later"}, "value"))
	check(newest, "")
	all = append([]Record{before}, all...)
	check(0, t.prefix)
}
