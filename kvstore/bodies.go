package kvstore

import (
	"errors"
	"fmt"

	"github.com/Focinfi/oncekv/bodies"
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

// holdBody holds a body that a command refers to, until whatever refers to it is
// counted or dropped. A reference that says another size than the body has is refused,
// by all alike, for its digest tells its size. The second error is fatal: whoever
// gives an entry of the log sees to it that its bodies are here.
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

// releaseDropped gives up the chunks that the commit before dropped, and notes those
// of this one: bbolt may go back by one transaction when its newest page is damaged,
// and then has their rows again. commitMu is held.
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
	err = s.history.View(func(tx Tx) error {
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
func appendReferences(tx Tx, d *body, changes []bodies.Change) ([]bodies.Change, error) {
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

// countHistory counts what records refer to that are not counted yet: a crash came
// between a commit and its count, or a pull brought them. What is counted must be the
// beginning of this history; otherwise, or when nothing is known, all of it is counted
// again.
func (s *Store) countHistory() error {
	from := s.bodies.Mark()
	known, err := s.knowsMark(from)
	if err != nil {
		return err
	}
	if !known {
		s.logger.Info("counting the bodies that the history refers to again", "revision", s.durablePosition().rev)
		if err := s.bodies.Recount(); err != nil {
			return s.failed("count the bodies that records refer to", s.bodyError(bodies.Digest{}, err))
		}
		from = bodies.Mark{}
	}
	last := s.durablePosition().rev
	for rev := Revision(from.Revision); rev < last; {
		var changes []bodies.Change
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

// knowsMark tells whether a mark is one of this history.
func (s *Store) knowsMark(m bodies.Mark) (bool, error) {
	rev := Revision(m.Revision)
	switch {
	case rev == 0:
		return true, nil
	case rev > s.durablePosition().rev:
		return false, nil
	}
	at, err := s.derivedAt(rev)
	return at.digest() == m.Head, err
}

// collectReferences appends what the records after rev refer to, as far as one short
// transaction goes, and returns the last of them.
func (s *Store) collectReferences(changes []bodies.Change, rev, last Revision) ([]bodies.Change, Revision, error) {
	err := s.history.View(func(tx Tx) error {
		read := 0
		var failed error
		err := ascendRecords(tx, rev+1, func(got Revision, raw []byte) bool {
			if got != rev+1 || got > last {
				return false
			}
			if read == 0 {
				tx.ReadAhead(raw)
			}
			read += len(raw)
			if len(raw) > 0 && bodyKind(raw[0]) != bodyInline { // the scan of the index, and Verify, check all
				d, err := checkRecord(tx, raw, got)
				if err == nil {
					changes, err = appendReferences(tx, &d, changes)
				}
				if err != nil {
					failed = err
					return false
				}
			}
			rev = got
			return read < scanBytes && len(changes) < countChanges
		})
		if failed == nil {
			failed = err
		}
		if failed == nil && read == 0 {
			_, failed = readRecord(tx, rev+1) // says that it is missing
		}
		return failed
	})
	return changes, rev, err
}

// holdUploads holds the chunks of the uploads that are open.
func (s *Store) holdUploads() error {
	for _, id := range sortedUploads(s.uploads) {
		if err := s.history.View(func(tx Tx) error {
			return ascendChunks(tx, id, func(_ chunkKey, ref bodies.Ref) error {
				if !s.bodies.Hold(ref.Digest) {
					return s.missingBody(ref.Digest)
				}
				return nil
			})
		}); err != nil {
			return s.failed("hold the chunks of uploads", err)
		}
	}
	return nil
}
