package kvstore

import (
	"bytes"
	"context"
)

// KeysRequest asks for a page of the set keys, in byte order.
type KeysRequest struct {
	Prefix     Key       // only keys that begin so; empty: all
	After      Key       // only keys behind this one; empty: from the first
	History    HistoryID // that the pages before were of; zero: whichever there is
	Limit      int       // at most so many keys; 1 at least
	LimitBytes int64     // the page ends when it holds about so many bytes; one key at least
}

// KeysPage is some of the set keys, in byte order. More tells that others
// follow: ask for them with After set to the last one.
type KeysPage struct {
	Keys    []Meta
	More    bool
	History HistoryID // that the revisions are of
}

// Bounds of a page besides those that were asked for.
const (
	pageEntryBytes   = 160      // what an entry takes besides its strings
	pageHistoryBytes = 32 << 20 // records are verified whole, so pages of large values are shorter
	pageMetas        = 256      // entries that are filled in at a time
)

// Keys returns a page of the keys that were set when it was called, each once, whatever is
// committed or flushed meanwhile. Only More tells whether it is the last.
//
// It pins the memtable first and then reads the index, as every reader does. What was set
// later it leaves out by its revision. A request that names another history is answered as
// by Changes. No lock and no transaction is held for longer than it takes to look at some
// 2,000 entries.
func (s *Store) Keys(ctx context.Context, r KeysRequest) (KeysPage, error) {
	if err := s.err(); err != nil {
		return KeysPage{}, err
	}
	s.mu.RLock()
	if err := s.checkHistoryLocked(r.History, 0); err != nil {
		s.mu.RUnlock()
		return KeysPage{}, err
	}
	at, history := s.memtable.end(), s.lineage.ID
	pins := s.memtable.pin()
	s.mu.RUnlock()

	// NUL is in no key, so what follows is the first string behind After.
	from := keyRange{prefix: string(r.Prefix), start: max(string(r.Prefix), string(r.After)+"\x00")}
	m := merger{limit: max(r.Limit, 1), left: r.LimitBytes}
	m.recent = pairsOf(pins, from, at, m.limit+1)
	if err := s.mergeIndex(ctx, &m, from, at); err != nil {
		return KeysPage{}, err
	}
	metas, err := s.metasOf(ctx, m.page, r.LimitBytes)
	return KeysPage{Keys: metas, More: m.full || len(metas) < len(m.page), History: history}, err
}

// merger merges what the memtable has with what the index has, which may be in
// part the same, into one page.
type merger struct {
	recent []keyRevisionPair // of the memtable, in order
	page   []keyRevisionPair
	limit  int
	left   int64 // bytes
	full   bool  // something did not fit any more
}

// add takes the next pair of the index; those of the memtable before it go
// first. It reports whether there is room for more.
func (m *merger) add(p keyRevisionPair) bool {
	for len(m.recent) > 0 && m.recent[0].key <= p.key {
		next := m.recent[0]
		m.recent = m.recent[1:]
		if next.key == p.key {
			break // it has been flushed meanwhile
		}
		if !m.take(next) {
			return false
		}
	}
	return m.take(p)
}

func (m *merger) take(p keyRevisionPair) bool {
	size := int64(len(p.key)) + pageEntryBytes
	if len(m.page) == m.limit || len(m.page) > 0 && m.left < size {
		m.full = true
		return false
	}
	m.left -= size
	m.page = append(m.page, p)
	return true
}

// mergeIndex goes through the index in pieces. Each sees at least what the one
// before saw, so that the pin holds for all of them.
func (s *Store) mergeIndex(ctx context.Context, m *merger, from keyRange, at Revision) error {
	start := []byte(from.start)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		var batch []keyRevisionPair
		seen, last := 0, []byte(nil)
		want := min(scanRecordsMax, m.limit+1-len(m.page))
		err := s.index.Ascend(start, func(k []byte, rev uint64) bool {
			if !bytes.HasPrefix(k, []byte(from.prefix)) {
				return false
			}
			seen++
			last = append(last[:0], k...)
			if Revision(rev) <= at {
				batch = append(batch, keyRevisionPair{Key(k), Revision(rev)})
			}
			return seen < want
		})
		if err != nil {
			return s.failed("list keys", indexError(err))
		}
		for _, p := range batch {
			if !m.add(p) {
				return nil
			}
		}
		if seen < want {
			break // the index has no more
		}
		start = append(last, 0)
	}
	for len(m.recent) > 0 && m.take(m.recent[0]) {
		m.recent = m.recent[1:]
	}
	return nil
}

// metasOf reads what history says about pairs, until limitBytes are reached. Each
// transaction reads about as much as any scan does at most, with the values in the records.
func (s *Store) metasOf(ctx context.Context, pairs []keyRevisionPair, limitBytes int64) ([]Meta, error) {
	all := make([]Meta, 0, len(pairs))
	page, history := int64(0), int64(0)
	for len(all) < len(pairs) && history <= pageHistoryBytes {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		some := pairs[len(all):min(len(pairs), len(all)+pageMetas)]
		keys, revs := make([]Key, len(some)), make([]Revision, len(some))
		for i, p := range some {
			keys[i], revs[i] = p.key, p.rev
		}
		metas, err := s.metas(s.recent(), keys, revs)
		if err != nil {
			return nil, err
		}
		for i := range metas {
			m := &metas[i]
			if page += m.pageBytes(); len(all) > 0 && page > limitBytes {
				return all, nil
			}
			if m.Size < BodyBytesMin {
				history += m.Size + m.pageBytes()
			}
			all = append(all, *m)
		}
	}
	return all, nil
}

// pageBytes is about the memory that m takes in a page.
func (m *Meta) pageBytes() int64 {
	return int64(len(m.Key)+len(m.ContentType)+len(m.By)+m.UserMeta.Bytes()) + pageEntryBytes
}
