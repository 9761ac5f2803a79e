package kvstore

import (
	"bytes"

	"github.com/Focinfi/oncekv/kvstore/engine"
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
// If r names a history that this one went on from, the answer is a *HistoryChangedError.
// If it names an unknown one, this store may only be behind, and the error says so.
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
	return s.history.View(func(tx engine.Tx) error {
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
