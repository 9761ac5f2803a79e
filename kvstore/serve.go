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

// Serve writes to w what a query of another replica's Stage asks for: records, some MiB
// of them at a time, each followed by the rows of its chunks, or the rows of an open
// upload. What those refer to is asked of Bodies. It holds
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

// serveRecords sends records in order, each followed by the rows of its chunks: a
// portion of what is asked for, at least one record if there is one. The receiver asks
// for the rest when it has the bodies.
func (s *Store) serveRecords(ctx context.Context, q *query, w io.Writer) error {
	rev := q.after
	var buf []byte
	for sent := 0; rev < q.through && sent < s.portionBytes(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		var chunked body
		buf, rev, chunked, err = s.recordFrames(buf[:0], rev, q.through, min(scanBytes, s.portionBytes()-sent))
		if err != nil {
			return s.failed("serve a snapshot", err)
		}
		if err := writeFrame(w, buf); err != nil {
			return err
		}
		sent += len(buf)
		n, err := s.serveRows(ctx, chunked.upload, 0, chunked.chunks, w)
		if err == nil && n != chunked.chunks {
			err = s.failed("serve a snapshot", corruptFile(s.history, missingChunk(makeChunkKey(chunked.upload, n))))
		}
		if err != nil {
			return err
		}
		sent += int(n) * chunkRowBytes
	}
	return nil
}

// serveRows sends the rows of chunks from number first on to before number end, or to
// the first that history does not have, whose number it returns. It finds and reads
// them in one transaction each batch: an upload may be dropped at any time.
func (s *Store) serveRows(ctx context.Context, id uploadID, first, end uint32, w io.Writer) (n uint32, err error) {
	var buf []byte
	for n = first; n < end; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		buf = buf[:0]
		more := false
		err := s.history.View(func(tx Tx) error {
			for more = true; n < end && len(buf) < rowsBytes; n++ {
				key := makeChunkKey(id, n)
				raw := tx.Get(BucketChunks, key[:])
				if more = raw != nil; !more {
					return nil
				}
				if _, err := checkChunkRow(tx, raw, key); err != nil {
					return err
				}
				buf = appendFrame(buf, frameChunk, key[:], raw)
			}
			return nil
		})
		if err != nil {
			return n, s.failed("serve a snapshot", err)
		}
		if len(buf) > 0 {
			if err := writeFrame(w, buf); err != nil {
				return n, err
			}
		}
		if !more {
			return n, nil
		}
	}
	return n, nil
}

// rowsBytes is how many bytes of rows are read in one transaction and sent together.
const rowsBytes = 64 << 10

// recordFrames appends frames of the records after rev, until limit bytes or until
// a record in chunks, whose place is returned (the chunks come next), and
// returns the last revision in them.
func (s *Store) recordFrames(buf []byte, rev, last Revision, limit int) ([]byte, Revision, body, error) {
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
			return rev < last && d.kind != bodyChunked && records < scanRecords && len(buf) < limit
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

// serveUpload sends the rows that history has of an upload. Some or all may
// be gone: then this store has applied the entry that dropped the upload, and
// the receiver will come to that entry too, before anybody could read them.
func (s *Store) serveUpload(ctx context.Context, q *query, w io.Writer) error {
	_, err := s.serveRows(ctx, q.upload, q.chunk, chunksMax, w)
	return err
}

func writeFrame(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("send a snapshot: %w", err)
	}
	return nil
}
