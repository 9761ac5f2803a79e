package kvstore

import (
	"context"
	"errors"
	"fmt"
)

// GetMany looks several keys up at once, on this node alone: a found value is
// right for ever, ErrNotFound is what Local means by it. It calls each for every
// key, with its place in keys, in any order. It is much cheaper than as many
// Gets: the locks and the transaction of a lookup are taken once for all.
//
// The Value, and what its Bytes returns, are valid until each returns; Open of a
// streamed value stays good. each runs inside of a read transaction and must
// neither block nor use the store. Errors are those of Get; one that is fatal is
// told for every key that had no answer yet.
func (db *DB) GetMany(keys []Key, each func(i int, v *Value, err error)) {
	db.store.getMany(keys, true, each)
}

// Confirm returns nil when this node has applied everything that was committed
// before the call: what is not set here after it was not set before it. So one
// Confirm makes any number of absences linearizable, if all of them were asked
// for before it began and are looked up after it has returned. Errors are those
// of Log.ReadIndex.
func (db *DB) Confirm(ctx context.Context) error {
	if err := db.log.ReadIndex(ctx); err != nil {
		return fmt.Errorf("confirm that keys are not set: %w", err)
	}
	return nil
}

// sought is a key that getMany has not found in memory.
type sought struct {
	at  int // in keys
	rev Revision
}

// getMany is Get for many keys, and looks in the same order: overlay, index,
// history. A value that is a body has no bytes unless whole.
func (s *Store) getMany(keys []Key, whole bool, each func(i int, v *Value, err error)) {
	rest := make([]sought, 0, len(keys))
	for i, key := range keys {
		if err := key.Validate(); err != nil {
			each(i, nil, err)
			continue
		}
		rest = append(rest, sought{at: i})
	}
	if err := s.err(); err != nil {
		fail(rest, err, each)
		return
	}
	rest = s.getPending(keys, rest, whole, each)
	if len(rest) == 0 {
		return
	}
	if err := s.seekIndexed(keys, rest); err != nil {
		fail(rest, s.failed("look up a key", err), each)
		return
	}
	s.getRecords(keys, rest, whole, each)
}

func fail(rest []sought, err error, each func(int, *Value, error)) {
	for i := range rest {
		each(rest[i].at, nil, err)
	}
}

// getPending answers for what is not in history yet, and notes the revisions
// that the overlay knows. It returns what is left, in the same memory.
func (s *Store) getPending(keys []Key, all []sought, whole bool, each func(int, *Value, error)) []sought {
	pending := make([]pendingRecord, 0, 16) // they do not change, so they outlive the lock
	places := make([]int, 0, 16)
	rest := all[:0]
	s.mu.RLock()
	for _, k := range all {
		k.rev = s.overlay.find(keys[k.at])
		if k.rev > s.durable.rev {
			pending = append(pending, s.pending[k.rev-s.durable.rev-1])
			places = append(places, k.at)
			continue
		}
		rest = append(rest, k)
	}
	s.mu.RUnlock()
	for i := range pending {
		p := &pending[i]
		if !whole && bodyKind(p.record[0]) == bodyReferred {
			each(places[i], NewValue(p.meta(), nil), nil)
			continue
		}
		v, err := s.pendingValue(p)
		each(places[i], v, err)
	}
	return rest
}

// seekIndexed fills in the revisions that the index has.
func (s *Store) seekIndexed(keys []Key, rest []sought) error {
	for i := range rest {
		if rest[i].rev != 0 {
			continue
		}
		rev, err := s.indexedRevision([]byte(keys[rest[i].at]))
		if err != nil {
			return err
		}
		rest[i].rev = rev
	}
	return nil
}

// errOther ends a transaction in which a record was found to be another key's.
var errOther = errors.New("the record is another key's")

// getRecords answers for the rest, from history.
func (s *Store) getRecords(keys []Key, rest []sought, whole bool, each func(int, *Value, error)) {
	done := 0
	var referred []referredKey
	var other string // the key that has the revision of rest[done], if it is not that one's
	err := s.history.View(func(tx Tx) error {
		for ; done < len(rest); done++ {
			k := rest[done]
			if k.rev == 0 {
				each(k.at, nil, ErrNotFound)
				continue
			}
			d, err := readRecord(tx, k.rev)
			if err != nil {
				return err
			}
			key := keys[k.at]
			if string(d.key) != string(key) {
				other = string(d.key)
				return errOther
			}
			switch m := d.meta(k.rev, key); {
			case d.kind == bodyChunked:
				each(k.at, s.chunkedValue(m, d.upload), nil)
			case d.kind == bodyReferred && whole:
				referred = append(referred, referredKey{k.at, m})
			default:
				v := Value{Meta: m, inline: d.value}
				each(k.at, &v, nil)
			}
		}
		return nil
	})
	if err == errOther {
		err = s.wrongIndex(rest[done].rev, keys[rest[done].at], other)
	}
	if err != nil {
		fail(rest[done:], s.failed("read history", err), each)
	}
	s.getReferred(referred, each)
}

// referredKey is a key whose value is a body.
type referredKey struct {
	at   int // in keys
	meta Meta
}

// getReferred answers for values that are bodies, one in memory at a time.
func (s *Store) getReferred(list []referredKey, each func(int, *Value, error)) {
	var buf []byte
	var err error
	for i := range list {
		r := &list[i]
		if buf, err = s.readBody(bodyRef(&r.meta), buf[:0]); err != nil {
			each(r.at, nil, err)
			continue
		}
		v := Value{Meta: r.meta, inline: buf}
		each(r.at, &v, nil)
	}
}
