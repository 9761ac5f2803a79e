package kvstore

import (
	"crypto/sha256"
	"fmt"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/level"
)

// recordSlabBytes is the memory that records of one entry share, at most.
const recordSlabBytes = 32 << 10

// Apply applies one committed entry of the log and returns one result a command: what DB
// makes a PutResult of, ChunkResult, OpenResult, AbandonResult, or an error for a command
// that is malformed or does not fit the state (the same on every replica). index must grow
// from call to call; gaps and empty entries are fine. meta replaces the opaque bytes that
// Durable returns; nil leaves them. Neither commands nor meta is kept.
//
// The effects are visible to Get at once and in history after a later Commit. Apply
// pauses while too much waits for history or index. The returned error is fatal.
func (s *Store) Apply(index, term uint64, commands [][]byte, meta []byte) ([]any, error) {
	if err := s.waitForRoom(); err != nil {
		return nil, err
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.checkNext(index); err != nil {
		return nil, err
	}
	results := make([]any, len(commands))
	cmds, err := s.decodeAll(index, commands, results)
	defer clear(cmds) // they alias the caller's bytes
	if err != nil {
		return nil, s.fail(err)
	}
	if err := s.findKeys(cmds); err != nil {
		return nil, err
	}
	s.records, s.recordBytes = nil, 0 // those of an entry share memory, and go together
	for i := range cmds {
		if b := &cmds[i].body; s.known[i] == 0 && len(b.key) > 0 {
			s.recordBytes += recordPrefixBytes + len(b.encoded)
		}
	}
	for i := range cmds {
		if results[i] != nil {
			continue
		}
		result, err := s.applyCommand(&cmds[i], s.known[i])
		if err != nil {
			return nil, err
		}
		results[i] = result
	}
	s.finishEntry(index, term, meta)
	return results, nil
}

// checkNext refuses an entry that is not behind all that were applied. applyMu is held.
func (s *Store) checkNext(index uint64) error {
	if err := s.err(); err != nil {
		return err
	}
	if index <= s.applied.index {
		return s.fail(fmt.Errorf("apply entry %d: entry %d was applied before it", index, s.applied.index))
	}
	return nil
}

// waitForRoom waits until neither pending writes nor the memtable is over its bound. It
// holds no lock, which the commit or flush might want, and without a Run it does that work
// itself.
func (s *Store) waitForRoom() error {
	for {
		if err := s.err(); err != nil {
			return err
		}
		s.mu.RLock()
		pendingFull := s.pendingBytes >= s.cfg.PendingBytes
		memtableFull := s.memtable.bytes >= s.cfg.MemtableBytes
		committed := s.applied.index == s.durable.index
		running, room := s.running, s.room
		s.mu.RUnlock()
		switch {
		case !pendingFull && !memtableFull:
			return nil
		case running:
			if committed {
				wake(s.wakeFlush)
			} else {
				wake(s.wakeCommit) // and with what that brings there may be something to flush
			}
			select {
			case <-room:
			case <-s.dead:
			}
		case pendingFull:
			if err := s.Commit(); err != nil {
				return err
			}
		default:
			if err := s.FlushIndex(); err != nil {
				return err
			}
		}
	}
}

// decodeAll decodes the commands of entry index into scratch space; the result of a
// malformed one is its error. If a later version wrote one of them, none is applied.
func (s *Store) decodeAll(index uint64, commands [][]byte, results []any) ([]command, error) {
	if cap(s.scratch) < len(commands) {
		s.scratch = make([]command, len(commands))
		s.known = make([]Revision, len(commands))
	}
	cmds := s.scratch[:len(commands)]
	s.known = s.known[:len(commands)]
	for i, raw := range commands {
		cmd, err := decodeCommand(raw)
		if later, ok := err.(*level.LaterError); ok {
			later.What = fmt.Sprintf("log entry %d", index)
			return cmds[:i], later
		}
		if err == nil && cmd.kind == commandPut {
			err = cmd.checkValue()
		}
		if err != nil {
			results[i] = err
			cmd = command{}
		}
		cmds[i] = cmd
	}
	return cmds, nil
}

// findKeys sets s.known[i] to the revision of the key of cmds[i], 0 when it is not set
// yet. Only Apply adds keys, so an answer stays true until it does.
func (s *Store) findKeys(cmds []command) error {
	s.mu.RLock()
	for i := range cmds {
		s.known[i] = 0
		if len(cmds[i].body.key) == 0 {
			continue
		}
		s.known[i] = s.memtable.find(cmds[i].body.keyView())
	}
	s.mu.RUnlock()
	for i := range cmds {
		if s.known[i] != 0 || len(cmds[i].body.key) == 0 {
			continue
		}
		rev, err := s.indexedRevision(cmds[i].body.key)
		if err != nil {
			return s.failed("look up keys", err)
		}
		s.known[i] = rev
	}
	return nil
}

// applyCommand applies one command; known is the revision of its key before
// this entry. The error is fatal.
func (s *Store) applyCommand(cmd *command, known Revision) (any, error) {
	switch cmd.kind {
	case commandPut, commandRefer, commandSeal:
		return s.applyPut(cmd, known)
	case commandOpen:
		return s.applyOpen(cmd)
	case commandChunk:
		return s.applyChunk(cmd)
	}
	return AbandonResult{Dropped: s.dropUpload(cmd.upload)}, nil
}

// applyPut sets a key, unless it is set: the first put in log order wins.
func (s *Store) applyPut(cmd *command, known Revision) (any, error) {
	if known == 0 {
		s.mu.RLock()
		known = s.memtable.active.find(cmd.body.keyView(), s.memtable.hash(cmd.body.keyView())) // set earlier in this very entry
		s.mu.RUnlock()
	}
	if known != 0 {
		if cmd.kind == commandSeal {
			s.dropUpload(cmd.upload) // it lost, so its chunks go
		}
		return s.resultAgainst(known, &cmd.body)
	}
	switch cmd.kind {
	case commandRefer:
		if refusal, err := s.holdBody(cmd.ref); err != nil || refusal != nil {
			return refusal, err
		}
	case commandSeal:
		if refusal, err := s.checkSeal(cmd); err != nil {
			return nil, err
		} else if refusal != nil {
			s.dropUpload(cmd.upload)
			return refusal, nil
		}
	}
	return s.create(cmd), nil
}

// checkSeal returns why a seal sets nothing, nil when it may. The second error is
// fatal.
func (s *Store) checkSeal(cmd *command) (refusal, err error) {
	u := s.uploads[cmd.upload]
	if u == nil || u.bytes != cmd.body.size {
		return fmt.Errorf("%w: upload %s of key %q cannot be sealed", ErrUploadIncomplete, cmd.upload, cmd.body.key), nil
	}
	if same, err := s.hasDigest(cmd.upload, u, cmd.body.sum); err != nil || same {
		return nil, err
	}
	s.logger.Warn("a large value was damaged on its way here, and is not set", "upload", cmd.upload, "bytes", u.bytes, "digest", cmd.body.sum)
	return fmt.Errorf("%w: upload %s of key %q, digest %s", ErrValueDamaged, cmd.upload, cmd.body.key, cmd.body.sum), nil
}

// newRecord returns the stored form of a body as a record of revision rev.
func (s *Store) newRecord(b *body, rev Revision) []byte {
	size := recordPrefixBytes + len(b.encoded)
	if len(s.records)+size > cap(s.records) {
		s.records = make([]byte, 0, max(size, min(s.recordBytes, recordSlabBytes)))
	}
	s.recordBytes -= size
	n := len(s.records)
	s.records = s.records[:n+size]
	record := s.records[n : n+size : n+size]
	record[0] = byte(b.kind)
	copy(record[recordPrefixBytes:], b.encoded)
	sealRecord(record, rev)
	return record
}

// resultAgainst compares a put with the record that holds its key.
func (s *Store) resultAgainst(rev Revision, b *body) (any, error) {
	winner, err := s.metaAt(s.recent(), rev, Key(b.key))
	if err != nil {
		return nil, err
	}
	return PutResult{Outcome: outcomeAgainst(&winner, b.putIDString(), &b.sum), Meta: winner}, nil
}

// create adds the record of a winning put.
func (s *Store) create(cmd *command) *pendingRecord {
	b := &cmd.body
	rev := s.applied.rev + 1
	p := pendingRecord{rev: rev, record: s.newRecord(b, rev)}
	leaf := leafOf(b.header)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied.advance(leaf, b)
	p.kept = s.applied.keep(s.cfg.CheckpointRevisions)
	s.pending = append(s.pending, p)
	s.pendingBytes += int64(len(p.record)) + pendingOverhead
	s.memtable.add(b.keyView(), rev)
	if b.kind == bodyChunked {
		delete(s.uploads, b.upload)
		s.dirty[b.upload] = struct{}{}
	}
	return &s.pending[len(s.pending)-1]
}

// applyOpen opens an upload. If it is open, that shows all replicas that it lives.
func (s *Store) applyOpen(cmd *command) (any, error) {
	if u := s.uploads[cmd.upload]; u != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		u.renew(cmd.time)
		s.dirty[cmd.upload] = struct{}{}
		return OpenResult{}, nil
	}
	// A late repeat must not open a sealed upload again: what is open gets abandoned one
	// day, and the chunks with it. A sealed upload always has its chunk 0.
	sealed, err := s.hasChunk(makeChunkKey(cmd.upload, 0))
	switch {
	case err != nil:
		return nil, err
	case sealed:
		return fmt.Errorf("%w: upload %s is sealed", ErrUploadIncomplete, cmd.upload), nil
	case len(s.uploads) >= openUploadsMax:
		return fmt.Errorf("%w: the limit is %d", ErrTooManyUploads, openUploadsMax), nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.uploads[cmd.upload] = newUpload(cmd.time)
	s.dirty[cmd.upload] = struct{}{}
	return OpenResult{}, nil
}

// applyChunk adds a chunk to its upload if it is the next one. The error is fatal.
func (s *Store) applyChunk(cmd *command) (any, error) {
	u := s.uploads[cmd.upload]
	if u == nil {
		return fmt.Errorf("%w: upload %s takes no chunk", ErrUploadIncomplete, cmd.upload), nil
	}
	switch count := u.count(); {
	case cmd.number < count:
		return ChunkResult{}, nil
	case cmd.number > count:
		return fmt.Errorf("%w: chunk %d of upload %s came before chunk %d", errChunkOrder, cmd.number, cmd.upload, count), nil
	case u.bytes != int64(count)*ChunkBytes:
		return fmt.Errorf("%w: chunk %d of upload %s follows a short one, which is the last", ErrUploadIncomplete, cmd.number, cmd.upload), nil
	}
	if refusal, err := s.holdBody(cmd.ref); err != nil || refusal != nil {
		return refusal, err
	}
	data, err := s.readBody(cmd.ref, s.chunk[:0])
	if err != nil {
		return nil, err
	}
	s.chunk = data
	key := makeChunkKey(cmd.upload, cmd.number)
	row := encodeChunkRow(key, cmd.ref)
	s.mu.Lock()
	defer s.mu.Unlock()
	u.add(data, cmd.time)
	s.dirty[cmd.upload] = struct{}{}
	s.chunks[key] = row
	s.ops = append(s.ops, op{key: key, row: row})
	s.pendingBytes += int64(len(row)) + pendingOverhead
	return ChunkResult{}, nil
}

// dropUpload forgets an open upload and its chunks; false when it is not open.
func (s *Store) dropUpload(id uploadID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.uploads[id]
	if u == nil {
		return false
	}
	delete(s.uploads, id)
	s.dirty[id] = struct{}{}
	for n := range u.count() {
		delete(s.chunks, makeChunkKey(id, n))
	}
	s.drops[id]++
	s.ops = append(s.ops, op{key: makeChunkKey(id, 0)})
	s.pendingBytes += pendingOverhead
	return true
}

// finishEntry moves the applied index and asks for the background work that is due.
func (s *Store) finishEntry(index, term uint64, meta []byte) {
	s.mu.Lock()
	s.applied.index, s.applied.term = index, term
	if meta != nil {
		s.meta = append([]byte{}, meta...)
	}
	s.freezeLocked(&s.applied.derived)
	commitDue := s.pendingBytes >= s.cfg.CommitBytes
	s.announceLocked()
	s.mu.Unlock()
	if commitDue { // it wakes the flush: what is not in history cannot be indexed
		wake(s.wakeCommit)
	}
}

// Level returns the level that a program must know to carry out a command (package level).
// The error is a *level.LaterError for a command that this program does not know.
// It looks at the first bytes only.
func (s *Store) Level(command []byte) (uint64, error) {
	needed, _, err := readCommandLevel(&cursor{b: command})
	return needed, malformedUnlessLater(err)
}

// Body returns the body that a command refers to; ok is false if it refers to none, or
// is not well formed, which Apply refuses.
func (s *Store) Body(command []byte) (ref bodies.Ref, ok bool) {
	if len(command) > 1 && command[0] == commandLevel && command[1] == byte(commandPut) {
		return ref, false // nearly all are: every replica asks three times
	}
	if _, kind, err := readCommandLevel(&cursor{b: command}); err != nil || kind != commandChunk && kind != commandRefer {
		return ref, false
	}
	cmd, err := decodeCommand(command)
	return cmd.ref, err == nil
}

// hasDigest tells whether the chunks of an upload are a value with that digest. Every
// replica must say the same: before it says no it goes through the chunks it has, each
// with a checksum, in case a bit flipped in its own memory. If one is missing, others have
// refused this seal and dropped the chunks (see pullUpload).
func (s *Store) hasDigest(id uploadID, u *upload, want Digest) (bool, error) {
	if u.digest() == want {
		return true, nil
	}
	h := sha256.New()
	var buf []byte
	for n := range u.count() {
		ref, found, err := s.chunkRef(makeChunkKey(id, n))
		if err != nil || !found {
			return false, err
		}
		if buf, err = s.readBody(ref, buf[:0]); err != nil {
			return false, err
		}
		h.Write(buf)
	}
	if Digest(h.Sum(nil)) != want {
		return false, nil
	}
	s.logger.Warn("the digest of a large value was damaged in this node's memory and is computed again from its chunks: have the memory tested", "upload", id)
	return true, nil
}
