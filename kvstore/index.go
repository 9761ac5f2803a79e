package kvstore

import (
	"errors"

	"github.com/Focinfi/oncekv/internal/keyruns"
)

// ofIndex returns m as the index keeps it.
func (m mark) ofIndex() keyruns.Mark {
	return keyruns.Mark{Revision: uint64(m.rev), Digest: m.digest}
}

// indexedMark returns up to where the index has every key.
func (s *Store) indexedMark() mark {
	m := s.index.Mark()
	return mark{Revision(m.Revision), m.Digest}
}

// indexedRevision looks key up in the index, 0 when it is not there.
func (s *Store) indexedRevision(key []byte) (Revision, error) {
	rev, err := s.index.Find(key)
	if err != nil {
		return 0, indexError(err)
	}
	return Revision(rev), nil
}

// indexError says what an error of the index is here.
func indexError(err error) error {
	if d, damaged := errors.AsType[*keyruns.CorruptError](err); damaged {
		return &CorruptError{File: d.File, Offset: d.Offset, Detail: d.Detail}
	}
	if errors.Is(err, keyruns.ErrClosed) {
		return ErrClosed
	}
	return err
}

// corruptIndex is the error of an index that says what history does not.
func (s *Store) corruptIndex(detail string) error {
	return &CorruptError{File: s.index.Path(), Offset: -1, Detail: detail}
}
