package kvstore

import (
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// countChanges is how many references are counted together when history is scanned.
const countChanges = 64 << 10

// bodyRef names the body of a value that is one.
func bodyRef(m *Meta) bodies.Ref {
	return bodies.Ref{Digest: bodies.Digest(m.SHA256), Size: int(m.Size)}
}

// readBody appends the bytes of a body that the state refers to, checked. An error is
// fatal: it must be here, and whole.
func (s *Store) readBody(ref bodies.Ref, buf []byte) ([]byte, error) {
	n := len(buf)
	buf, err := s.bodies.Read(ref.Digest, buf)
	if got := len(buf) - n; err == nil && got != ref.Size {
		err = &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("body %s has %d bytes, but %d are referred to", ref.Digest, got, ref.Size)}
	}
	return buf, s.failed("read a value", s.bodyError(ref.Digest, err))
}

// readBlocks fills p with blocks of a body that the state refers to from off on, where one
// begins, checked. p has room for one at least, or for the rest. An error is fatal.
func (s *Store) readBlocks(ref bodies.Ref, p []byte, off int) (int, error) {
	p = p[:min(len(p), ref.Size-off)]
	if off+len(p) < ref.Size {
		p = p[:len(p)/bodies.BlockBytes*bodies.BlockBytes]
	}
	n, err := s.bodies.ReadAt(ref.Digest, p, off)
	if err == nil && n != len(p) {
		err = &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("body %s has %d bytes, but %d are referred to", ref.Digest, off+n, ref.Size)}
	}
	return n, s.failed("read a value", s.bodyError(ref.Digest, err))
}

// bodyError returns what an error of the bodies is to a store whose state needs them.
func (s *Store) bodyError(d bodies.Digest, err error) error {
	damage, damaged := errors.AsType[*bodies.DamageError](err)
	switch {
	case damaged:
		return &CorruptError{File: damage.File, Offset: damage.Offset, Detail: damage.Detail}
	case errors.Is(err, bodies.ErrMissing):
		return s.missingBody(d)
	case errors.Is(err, bodies.ErrClosed):
		return ErrClosed
	}
	return err
}

// missingBody is the error of a body that is not here, or cannot be found.
func (s *Store) missingBody(d bodies.Digest) error {
	if err := s.bodies.Err(); err != nil {
		return s.bodyError(d, err)
	}
	return &CorruptError{File: s.bodies.Dir(), Offset: -1, Detail: fmt.Sprintf("body %s, which this node needs, is missing", d)}
}

// holdBody holds a body that a command refers to, until what refers to it is counted or
// dropped. All replicas refuse a reference with a wrong size, because the digest
// determines the size. The second error is fatal: the log has the bodies of an entry
// before it gives the entry.
func (s *Store) holdBody(ref bodies.Ref) (refusal, err error) {
	size, ok := s.bodies.Size(ref.Digest)
	if ok && size != ref.Size {
		return fmt.Errorf("%w: body %s has %d bytes, not %d", ErrValueDamaged, ref.Digest, size, ref.Size), nil
	}
	if !ok || !s.bodies.Hold(ref.Digest) {
		return nil, s.failed("apply a log entry", s.missingBody(ref.Digest))
	}
	return nil, nil
}

// releaseDropped gives up the chunks that the commit before dropped, and notes those of
// this one: if bbolt goes back by one transaction, it has their rows again. commitMu is
// held.
func (s *Store) releaseDropped(dropped []bodies.Digest) {
	for _, d := range s.dropped {
		s.bodies.Release(d)
	}
	s.dropped = dropped
}

// countRecords counts what records refer to that a commit has just brought into
// history, up to which history is at, and returns it.
func (s *Store) countRecords(records []pendingRecord, at *derived) (changes []bodies.Change, err error) {
	if len(records) == 0 {
		return nil, nil
	}
	err = s.history.View(func(tx engine.Tx) error {
		for i := range records {
			if bodyKind(records[i].record[0]) == bodyInline {
				continue
			}
			d := records[i].body()
			if changes, err = appendReferences(tx, &d, changes); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = s.count(changes, at)
	}
	return changes, s.failed("count the bodies that records refer to", err)
}

// count counts references up to where history is at.
func (s *Store) count(changes []bodies.Change, at *derived) error {
	err := s.bodies.Count(changes, bodies.Mark{Revision: uint64(at.rev), Head: at.digest()})
	return s.bodyError(bodies.Digest{}, err)
}

// appendReferences appends what a record refers to, of which history has all rows.
func appendReferences(tx engine.Tx, d *body, changes []bodies.Change) ([]bodies.Change, error) {
	if d.kind == bodyReferred {
		return append(changes, bodies.Change{Digest: d.ref().Digest, By: 1}), nil
	}
	for n := range d.chunks {
		ref, err := readChunkRow(tx, makeChunkKey(d.upload, n))
		if err != nil {
			return changes, err
		}
		changes = append(changes, bodies.Change{Digest: ref.Digest, By: 1})
	}
	return changes, nil
}

// countHistory counts what records refer to and nobody counted: after a crash between a
// commit and its count, or after a pull. If what is counted is not the beginning of this
// history, it counts all of it again.
func (s *Store) countHistory() error {
	from, last := s.bodies.Mark(), s.durableState().rev
	known := from.Revision <= uint64(last)
	if known && from.Revision > 0 {
		at, err := s.derivedAt(Revision(from.Revision))
		if err != nil {
			return err
		}
		known = at.digest() == from.Head
	}
	if !known {
		s.logger.Info("counting again the bodies that the history refers to", "revision", last)
		if err := s.bodies.Recount(); err != nil {
			return s.failed("count the bodies that records refer to", s.bodyError(bodies.Digest{}, err))
		}
		from = bodies.Mark{}
	}
	for rev := Revision(from.Revision); rev < last; {
		var changes []bodies.Change
		var err error
		for rev < last && len(changes) < countChanges {
			if changes, rev, err = s.collectReferences(changes, rev, last); err != nil {
				return s.failed("count the bodies that records refer to", err)
			}
		}
		at, err := s.derivedAt(rev)
		if err == nil {
			err = s.failed("count the bodies that records refer to", s.count(changes, &at))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// collectReferences appends what the records after rev refer to, as far as one short
// transaction goes, and returns the last of them.
func (s *Store) collectReferences(changes []bodies.Change, rev, last Revision) ([]bodies.Change, Revision, error) {
	err := s.history.View(func(tx engine.Tx) error {
		return scanRecords(tx, rev+1, last, true, func(got Revision, raw []byte) (bool, error) {
			if len(raw) > 0 && bodyKind(raw[0]) != bodyInline { // the scan of the index, and Verify, check all
				d, err := checkRecord(tx, raw, got)
				if err == nil {
					changes, err = appendReferences(tx, &d, changes)
				}
				if err != nil {
					return false, err
				}
			}
			rev = got
			return len(changes) < countChanges, nil
		})
	})
	return changes, rev, err
}
