package kvstore

import (
	"context"
	"fmt"
	"io"

	"github.com/Focinfi/oncekv/kvstore/engine"
)

// Serve writes to w what a query of another replica's Stage asks for: some MiB of records,
// each followed by the rows of its chunks, or the rows of an open upload. Bodies are asked
// of Bodies. It holds about 1 MiB, and no transaction while it writes. It
// fails before it writes anything if this store has not applied what is asked for.
func (s *Store) Serve(ctx context.Context, query string, w io.Writer) error {
	if err := s.err(); err != nil {
		return err
	}
	q, err := parseQuery(query)
	if err != nil {
		return err
	}
	s.mu.RLock()
	applied := s.applied.index
	behind := applied < q.index || s.applied.rev < q.through
	pending := s.durable.index < q.index || s.durable.rev < q.through
	s.mu.RUnlock()
	switch {
	case behind:
		return fmt.Errorf("%w: it has applied entry %d, asked for is entry %d", errBehind, applied, q.index)
	case pending:
		if err := s.Commit(); err != nil {
			return err
		}
	}
	if q.kind == queryRecords {
		err = s.serveRecords(ctx, q, w)
	} else {
		// Some or all rows may be gone: then this store has applied the entry that dropped the
		// upload, and the receiver will come to that entry too, before anybody could read them.
		_, err = s.serveRows(ctx, q.upload, q.chunk, chunksMax, w)
	}
	if err != nil {
		return err
	}
	return sendItems(w, appendItem(nil, itemEnd, nil, nil))
}

// serveRecords sends records in order, each followed by the rows of its chunks: a portion,
// of one record at least. The receiver asks for the rest when it has the bodies.
func (s *Store) serveRecords(ctx context.Context, q *query, w io.Writer) error {
	rev := q.after
	var buf []byte
	for sent := 0; rev < q.through && sent < s.portionBytes(); {
		if err := ctx.Err(); err != nil {
			return err
		}
		var err error
		var chunked body
		buf, rev, chunked, err = s.recordItems(buf[:0], rev, q.through, min(scanBytes, s.portionBytes()-sent))
		if err != nil {
			return s.failed("serve a snapshot", err)
		}
		if err := sendItems(w, buf); err != nil {
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

// serveRows sends the rows of chunks from number first to before end, or to the first that
// history does not have, whose number it returns. An upload may be dropped meanwhile.
func (s *Store) serveRows(ctx context.Context, id uploadID, first, end uint32, w io.Writer) (n uint32, err error) {
	var buf []byte
	for n = first; n < end; {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		buf = buf[:0]
		more := false
		err := s.history.View(func(tx engine.Tx) error {
			for more = true; n < end && len(buf) < rowsBytes; n++ {
				key := makeChunkKey(id, n)
				ref, found, err := findChunkRow(tx, key)
				if more = found; !more || err != nil {
					return err
				}
				buf = appendItem(buf, itemChunk, key[:], encodeChunkRow(key, ref))
			}
			return nil
		})
		if err != nil {
			return n, s.failed("serve a snapshot", err)
		}
		if len(buf) > 0 {
			if err := sendItems(w, buf); err != nil {
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

// recordItems appends items of the records after rev, up to limit bytes or to a record
// in chunks, whose place it returns, and returns the last revision in them.
func (s *Store) recordItems(buf []byte, rev, last Revision, limit int) (_ []byte, _ Revision, chunked body, err error) {
	err = s.history.View(func(tx engine.Tx) error {
		return scanRecords(tx, rev+1, last, true, func(got Revision, raw []byte) (bool, error) {
			k := revisionKey(got)
			d, err := checkRecord(tx, raw, got)
			if err != nil {
				return false, err
			}
			rev = got
			buf = appendItem(buf, itemRecord, k[:], raw)
			if d.kind == bodyChunked {
				chunked = body{upload: d.upload, chunks: d.chunks}
			}
			return d.kind != bodyChunked && len(buf) < limit, nil
		})
	})
	return buf, rev, chunked, err
}

func sendItems(w io.Writer, b []byte) error {
	if _, err := w.Write(b); err != nil {
		return fmt.Errorf("send a snapshot: %w", err)
	}
	return nil
}

// Durable returns the state that history holds, from one transaction: index and term of
// the last entry, the newest opaque meta, and an encoded description for Stage and Install
// of another replica. A store that never got an entry has index 0.
func (s *Store) Durable() (index, term uint64, meta, snapshot []byte, err error) {
	if err := s.err(); err != nil {
		return 0, 0, nil, nil, err
	}
	err = s.history.View(func(tx engine.Tx) error {
		snap, err := readSnapshot(tx)
		if err != nil {
			return err
		}
		index, term = snap.index, snap.term
		snapshot = encodeSnapshot(snap)
		meta, err = storedMeta(tx)
		return err
	})
	if err != nil {
		return 0, 0, nil, nil, s.failed("read the durable state", err)
	}
	return index, term, meta, snapshot, nil
}
