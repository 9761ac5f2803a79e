package kvstore

import (
	"context"
	"fmt"
	"io"
)

// Position returns the newest revision: how far this store's history goes.
func (s *Store) Position() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return uint64(s.applied.rev)
}

// Digest is DigestAt for callers that know nothing of this package's types.
func (s *Store) Digest(position uint64) ([]byte, error) {
	d, err := s.DigestAt(Revision(position))
	return d[:], err
}

// Serve writes to w what a query of another replica's Stage asks for. It holds
// about 1 MiB, and no transaction while it writes. ErrBehind means that this
// store has not applied what is asked for; nothing was written then.
func (s *Store) Serve(ctx context.Context, query string, w io.Writer) error {
	if err := s.err(); err != nil {
		return err
	}
	q, err := parseQuery(query)
	if err != nil {
		return err
	}
	if err := s.catchUp(q); err != nil {
		return err
	}
	if q.kind == queryRecords {
		err = s.serveRecords(ctx, q, w)
	} else {
		err = s.serveUpload(ctx, q, w)
	}
	if err != nil {
		return err
	}
	return writeFrame(w, appendFrame(nil, frameEnd, nil, nil))
}

// catchUp makes sure that history has what q asks for.
func (s *Store) catchUp(q *query) error {
	s.mu.RLock()
	applied := s.applied.index
	behind := applied < q.index || s.applied.rev < q.through
	pending := s.durable.index < q.index || s.durable.rev < q.through
	s.mu.RUnlock()
	switch {
	case behind:
		return fmt.Errorf("%w: it has applied entry %d, asked for is entry %d", ErrBehind, applied, q.index)
	case pending:
		return s.Commit()
	}
	return nil
}

// serveRecords sends records in order, each followed by its chunks.
func (s *Store) serveRecords(ctx context.Context, q *query, w io.Writer) error {
	rev, chunk := q.after, q.chunk
	var buf []byte
	for rev < q.through {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		var chunked body
		buf, rev, chunked, err = s.recordFrames(buf[:0], rev, q.through)
		if err != nil {
			return s.failed("serve a snapshot", err)
		}
		if err := writeFrame(w, buf); err != nil {
			return err
		}
		for n := chunk; n < chunked.chunks; n++ {
			if buf, err = s.chunkFrame(buf[:0], makeChunkKey(chunked.upload, n)); err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := writeFrame(w, buf); err != nil {
				return err
			}
		}
		chunk = 0
	}
	return nil
}

// recordFrames appends frames of the records after rev, until enough or until
// a record in chunks, whose place is returned (the chunks come next), and
// returns the last revision in them.
func (s *Store) recordFrames(buf []byte, rev, last Revision) ([]byte, Revision, body, error) {
	var chunked body
	first := rev
	err := s.history.View(func(tx Tx) error {
		records := 0
		var failed error
		err := ascendRecords(tx, rev+1, func(got Revision, v []byte) bool {
			if got != rev+1 {
				return false
			}
			if records == 0 {
				tx.ReadAhead(v)
			}
			k := revisionKey(got)
			d, err := checkRecord(tx, v, rev+1)
			if err != nil {
				failed = err
				return false
			}
			rev++
			records++
			buf = appendFrame(buf, frameRecord, k[:], v)
			if d.kind == bodyChunked {
				chunked = body{upload: d.upload, chunks: d.chunks}
			}
			return rev < last && d.kind != bodyChunked && records < scanRecords && len(buf) < scanBytes
		})
		if failed == nil {
			failed = err
		}
		if failed == nil && rev == first {
			_, failed = readRecord(tx, rev+1)
		}
		return failed
	})
	return buf, rev, chunked, err
}

// chunkFrame appends the frame of a chunk that must be there.
func (s *Store) chunkFrame(buf []byte, key chunkKey) ([]byte, error) {
	err := s.history.View(func(tx Tx) error {
		if _, err := readChunkRow(tx, key); err != nil {
			return err
		}
		buf = appendFrame(buf, frameChunk, key[:], tx.Get(BucketChunks, key[:]))
		return nil
	})
	return buf, s.failed("serve a snapshot", err)
}

// serveUpload sends the chunks that history has of an upload. Some or all may
// be gone: then this store has applied the entry that dropped the upload, and
// the receiver will come to that entry too, before anybody could read them.
func (s *Store) serveUpload(ctx context.Context, q *query, w io.Writer) error {
	var buf []byte
	for n := q.chunk; n < chunksMax; n++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		var found bool
		var err error
		if buf, found, err = s.uploadFrame(buf[:0], makeChunkKey(q.upload, n)); err != nil {
			return s.failed("serve a snapshot", err)
		}
		if !found {
			return nil
		}
		if err := writeFrame(w, buf); err != nil {
			return err
		}
	}
	return nil
}

// uploadFrame appends the frame of a chunk, if it is there. It finds and reads in one
// transaction: the upload may be dropped at any time.
func (s *Store) uploadFrame(buf []byte, key chunkKey) (_ []byte, found bool, err error) {
	err = s.history.View(func(tx Tx) error {
		stored := tx.Get(BucketChunks, key[:])
		if found = stored != nil; !found {
			return nil
		}
		if _, err := checkChunkRow(tx, stored, key); err != nil {
			return err
		}
		buf = appendFrame(buf, frameChunk, key[:], stored)
		return nil
	})
	return buf, found, err
}

func writeFrame(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("send a snapshot: %w", err)
	}
	return nil
}
