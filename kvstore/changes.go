package kvstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// ChangesRequest asks for some records of history, in order.
type ChangesRequest struct {
	After      Revision  // only records behind this one
	History    HistoryID // that After is a revision of; zero: whichever there is
	Prefix     Key       // only of keys that begin so; empty: all
	Limit      int       // at most so many; 1 at least
	LimitBytes int64     // end when about so many bytes are found; one record at least
	Values     bool      // with the values that are kept in one piece
}

// Change is a record of history: the put that set a key.
type Change struct {
	Meta
	// Value is nil when it was not asked for, and when it is in chunks, as
	// every value over ChunkBytes is: Get reads those. It must not be modified.
	Value []byte
}

// Changes is a part of history.
type Changes struct {
	Records []Change
	Scanned Revision // what was asked for up to here is in Records; go on after it
	Newest  Revision // the newest revision there was

	History HistoryID // that the revisions are of
}

// Changes returns some of the records after a revision, in order: as many as
// one short transaction finds. It may find none and not be at the end: that is
// reached when Scanned is not below Newest. What was applied counts, be it in
// history already or not. A range has the same records on every replica.
//
// If r names a history that this store's went on from, that is a
// *HistoryChangedError. If it names one that is not known here, or After is beyond
// Newest, this store may only be behind: then it returns ErrBehind, or finds nothing.
func (s *Store) Changes(r ChangesRequest) (Changes, error) {
	if err := s.err(); err != nil {
		return Changes{}, err
	}
	s.mu.RLock()
	now, newest, history := s.recentLocked(), s.applied.rev, s.lineage.ID
	err := s.checkHistoryLocked(r.History, r.After)
	s.mu.RUnlock()
	if err != nil {
		return Changes{}, err
	}
	c := collector{r: r, Changes: Changes{Scanned: r.After, Newest: newest, History: history}}
	if r.After < now.durable {
		if err := s.collectDurable(&c, now.durable); err != nil {
			return Changes{}, s.failed("read history", err)
		}
	}
	for c.Scanned >= now.durable && c.Scanned < newest {
		p := now.at(c.Scanned + 1)
		d := p.body()
		if !strings.HasPrefix(string(d.key), string(r.Prefix)) {
			c.Scanned++
			continue
		}
		change := Change{Meta: d.meta(p.rev, Key(d.key))}
		if d.kind == bodyInline {
			change.Value = d.value
		}
		if !c.add(change, d.kind) {
			break
		}
	}
	for _, i := range c.referred {
		r := &c.Records[i]
		if r.Value, err = s.readBody(bodyRef(&r.Meta), nil); err != nil {
			return Changes{}, err
		}
	}
	return c.Changes, nil
}

// collector gathers records until a bound is reached.
type collector struct {
	Changes
	r        ChangesRequest
	bytes    int64
	referred []int // of Records: their values are bodies, and still to be read
}

// add takes the record after Scanned, or reports that it does not fit.
func (c *collector) add(change Change, kind bodyKind) bool {
	if !c.r.Values {
		change.Value = nil
	}
	size := int64(len(change.Value))
	referred := c.r.Values && kind == bodyReferred
	if referred {
		size = change.Size
	}
	c.bytes += change.pageBytes() + size
	if len(c.Records) > 0 && (len(c.Records) >= c.r.Limit || c.bytes > c.r.LimitBytes) {
		return false
	}
	if referred {
		c.referred = append(c.referred, len(c.Records))
	}
	c.Records = append(c.Records, change)
	c.Scanned++
	return true
}

// collectDurable goes on in history, up to the revision last, for as long as
// one transaction may take.
func (s *Store) collectDurable(c *collector, last Revision) error {
	return s.history.View(func(tx Tx) error {
		seen, read := 0, 0
		var failed error
		err := ascendRecords(tx, c.Scanned+1, func(rev Revision, v []byte) bool {
			if rev != c.Scanned+1 {
				return false // a gap; reported below
			}
			d, err := checkRecord(tx, v, rev)
			if err != nil {
				failed = err
				return false
			}
			seen++
			read += len(v)
			if !strings.HasPrefix(string(d.key), string(c.r.Prefix)) {
				c.Scanned++
			} else if !c.add(c.durableChange(&d, rev), d.kind) {
				return false
			}
			return c.Scanned < last && seen < scanRecords && read < scanBytes
		})
		if failed == nil {
			failed = err
		}
		if failed == nil && seen == 0 {
			_, failed = readRecord(tx, c.Scanned+1) // says that it is missing
		}
		return failed
	})
}

// durableChange copies a record out of its transaction.
func (c *collector) durableChange(d *body, rev Revision) Change {
	change := Change{Meta: d.meta(rev, Key(d.key))}
	if c.r.Values && d.kind == bodyInline {
		change.Value = append(make([]byte, 0, len(d.value)), d.value...)
	}
	return change
}

// Advanced returns a channel that is closed when there is a revision behind
// after. It may be closed earlier, whenever there is any new one: then look and
// ask again. When the store dies it may stay open: Changes tells.
func (s *Store) Advanced(after Revision) <-chan struct{} {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.applied.rev > after {
		now := make(chan struct{})
		close(now)
		return now
	}
	s.watched.Store(true)
	return s.grown
}

// announceLocked wakes those who wait for a revision, if there is a new one.
// mu is held.
func (s *Store) announceLocked() {
	if s.applied.rev == s.announced {
		return
	}
	s.announced = s.applied.rev
	if s.watched.Swap(false) {
		close(s.grown)
		s.grown = make(chan struct{})
	}
}

// Keys returns a page of the set keys, as Store.Keys does. With Linearizable it
// shows every put that was acknowledged before the call. For a history that this
// node does not know the log is asked with Local too, so that a node that is only
// behind never says *HistoryChangedError.
func (db *DB) Keys(ctx context.Context, r KeysRequest, c Consistency) (page KeysPage, err error) {
	err = db.ask(ctx, c, "list keys", r.History, 0, func(Consistency) error {
		page, err = db.store.Keys(ctx, r)
		return err
	})
	return page, err
}

// Changes returns some records of history, as Store.Changes does. With
// Linearizable its Newest counts every put that was acknowledged before the
// call; what follows up to there may then be read with Local. An After beyond Newest
// is a *HistoryChangedError with Linearizable only, and for a history that this node
// does not know the log is asked with Local too: so a node that is only behind never
// says it.
func (db *DB) Changes(ctx context.Context, r ChangesRequest, c Consistency) (changes Changes, err error) {
	err = db.ask(ctx, c, "list changes", r.History, r.After, func(c Consistency) error {
		if changes, err = db.store.Changes(r); err == nil && c == Linearizable && r.After > changes.Newest {
			return ErrBehind
		}
		return err
	})
	return changes, err
}

// ask calls read when this node is as far as c wants. If read says that the node may
// be behind, it is called once more when the log has been asked; if the node is not
// behind then, there is no such history, or it is not so long.
func (db *DB) ask(ctx context.Context, c Consistency, what string, history HistoryID, since Revision, read func(c Consistency) error) error {
	if err := db.catchUp(ctx, c); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	err := read(c)
	switch {
	case !errors.Is(err, ErrBehind):
		return err
	case c == Linearizable:
		return db.store.historyChanged(history, since)
	}
	return db.ask(ctx, Linearizable, what, history, since, read)
}

// Advanced is Store.Advanced.
func (db *DB) Advanced(after Revision) <-chan struct{} { return db.store.Advanced(after) }

// catchUp returns when this node has applied everything that was committed
// before the call, or, with Local, at once.
func (db *DB) catchUp(ctx context.Context, c Consistency) error {
	if c == Local {
		return nil
	}
	return db.log.ReadIndex(ctx)
}
