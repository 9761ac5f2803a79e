package kvstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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

// Changes returns some of the records after a revision, in order: as many as one short
// transaction finds, perhaps none. The end is reached when Scanned is not below Newest. It
// counts what was applied, in history or not yet. A range has the same records on every
// replica.
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
		if d := p.body(); !c.add(&d, p.rev, d.value) {
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

// add takes the record after Scanned, if it is asked for, or reports that it does not
// fit. value is the one in the record.
func (c *collector) add(d *body, rev Revision, value []byte) bool {
	if !bytes.HasPrefix(d.key, []byte(c.r.Prefix)) {
		c.Scanned++
		return true
	}
	change := Change{Meta: d.meta(rev, Key(d.key))}
	c.bytes += change.pageBytes()
	if c.r.Values && d.kind != bodyChunked {
		c.bytes += d.size
	}
	if len(c.Records) > 0 && (len(c.Records) >= c.r.Limit || c.bytes > c.r.LimitBytes) {
		return false
	}
	switch {
	case !c.r.Values:
	case d.kind == bodyInline:
		change.Value = value
	case d.kind == bodyReferred:
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
		return scanRecords(tx, c.Scanned+1, last, false, func(rev Revision, raw []byte) (bool, error) {
			d, err := checkRecord(tx, raw, rev)
			if err != nil {
				return false, err
			}
			value := d.value
			if c.r.Values {
				value = append(make([]byte, 0, len(value)), value...)
			}
			return c.add(&d, rev, value), nil
		})
	})
}

// Advanced returns a channel that is closed when there is a revision behind after, or
// earlier, at any new one: look and ask again. When the store dies it may stay open:
// Changes tells.
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

// Keys is Store.Keys. With Linearizable it shows every put that was acknowledged before
// the call. For a history that this node does not know it asks the log with Local too, so
// that a node that is only behind never says *HistoryChangedError.
func (db *DB) Keys(ctx context.Context, r KeysRequest, c Consistency) (page KeysPage, err error) {
	err = db.ask(ctx, c, "list keys", r.History, 0, func(Consistency) error {
		page, err = db.store.Keys(ctx, r)
		return err
	})
	return page, err
}

// Changes is Store.Changes. With Linearizable, Newest counts every put that was
// acknowledged before the call; what follows up to there may be read with Local. An After
// beyond Newest is a *HistoryChangedError with Linearizable only, and for a history that
// this node does not know it asks the log with Local too: a node that is only behind never
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
	if c != Local {
		if err := db.log.ReadIndex(ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err := read(c)
	switch {
	case !errors.Is(err, ErrBehind):
		return err
	case c == Linearizable:
		db.store.mu.RLock()
		defer db.store.mu.RUnlock()
		return db.store.historyChangedLocked(history, since)
	}
	return db.ask(ctx, Linearizable, what, history, since, read)
}

// Advanced is Store.Advanced.
func (db *DB) Advanced(after Revision) <-chan struct{} { return db.store.Advanced(after) }
