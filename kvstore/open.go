package kvstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// The files of a store's directory.
const (
	historyFile = "history.db"
	indexFile   = "index.db"
	stagingFile = "staging.db"
	scratchFile = "sort.tmp"
)

// Address space kept free for the files to grow into.
const (
	historyMapBytes = 10 << 30
	indexMapBytes   = 1 << 30
)

// IsFile reports whether a store keeps something of that name in its directory.
func IsFile(name string) bool {
	switch strings.TrimSuffix(name, creating) {
	case historyFile, indexFile, stagingFile, scratchFile:
		return true
	}
	return false
}

// OpenStoreDir opens the store in directory dir, which is made when missing:
// history.db, index.db and, during a snapshot, staging.db. It fills the engines
// of cfg. A directory in use by another process is refused at once.
//
// A missing index.db, or that of an older version, is rebuilt from history.db,
// which takes about a second a million keys.
func OpenStoreDir(dir string, cfg StoreConfig) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := checkHistoryThere(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	history, err := OpenBolt(filepath.Join(dir, historyFile), BoltOptions{MapBytes: historyMapBytes, FillPages: true})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	index, err := openIndexFile(filepath.Join(dir, indexFile))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), history.Close())
	}
	staging := filepath.Join(dir, stagingFile)
	cfg.History, cfg.Index = history, index
	cfg.OpenStaging = func() (Engine, error) { return OpenBolt(staging, BoltOptions{FillPages: true}) }
	cfg.RemoveStaging = func() error {
		if err := os.Remove(staging); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop staging: %w", err)
		}
		return syncDir(dir)
	}
	scratch := filepath.Join(dir, scratchFile)
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) { // a crash left it
		return nil, errors.Join(fmt.Errorf("open store: %w", err), history.Close(), index.Close())
	}
	cfg.OpenScratch = func() (Scratch, error) { return openScratchFile(scratch) }
	s, err := OpenStore(cfg)
	if err != nil {
		return nil, errors.Join(err, history.Close(), index.Close())
	}
	s.owned = true
	if err := s.dropOldStaging(staging); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkHistoryThere refuses an index without its history, which is made before it. A
// new history in its place would be empty.
func checkHistoryThere(dir string) error {
	history, index := filepath.Join(dir, historyFile), filepath.Join(dir, indexFile)
	if _, err := os.Stat(history); !errors.Is(err, fs.ErrNotExist) {
		return nil // or why not is said when it is opened
	}
	if _, err := os.Stat(index); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("%s is missing, but %s is there; put it back, or replace this node: remove the member, empty the data directory, join again", history, index)
}

// openIndexFile opens the index. One that an older program wrote, in which every
// key is alone, is removed: it is rebuilt from history.
func openIndexFile(path string) (Engine, error) {
	index, err := OpenBolt(path, BoltOptions{MapBytes: indexMapBytes, FillPages: true})
	if err != nil {
		return nil, err
	}
	old := false
	if err := index.View(func(tx Tx) error {
		k, _ := tx.Seek(BucketKeys, nil)
		old = k != nil
		return nil
	}); err != nil || !old {
		return index, err
	}
	if err := errors.Join(index.Close(), os.Remove(path), syncDir(filepath.Dir(path))); err != nil {
		return nil, fmt.Errorf("remove the index of an older version: %w", err)
	}
	return OpenBolt(path, BoltOptions{MapBytes: indexMapBytes, FillPages: true})
}

// scratchOnDisk is a Scratch in a file, which goes when it is closed.
type scratchOnDisk struct{ *os.File }

// openScratchFile makes the file.
func openScratchFile(path string) (Scratch, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make a scratch file: %w", err)
	}
	return scratchOnDisk{f}, nil
}

// Close implements Scratch.
func (s scratchOnDisk) Close() error {
	if err := errors.Join(s.File.Close(), os.Remove(s.Name())); err != nil {
		return fmt.Errorf("drop the scratch file: %w", err)
	}
	return nil
}

// dropOldStaging removes what a crash left of an install that was complete but
// for this. A staging area that is still wanted, or unreadable, is left to Stage.
func (s *Store) dropOldStaging(path string) error {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	area, err := s.openStaging()
	if err != nil {
		return err
	}
	raw, _, err := readProgress(area)
	if cerr := area.Close(); cerr != nil {
		return fmt.Errorf("open store: close staging: %w", cerr)
	}
	if err != nil {
		return s.cfg.RemoveStaging() // of another version, or damaged: nobody resumes it
	}
	if raw == nil {
		return nil
	}
	if snap, err := decodeSnapshot(raw); err == nil && snap.index <= s.durable.index {
		return s.cfg.RemoveStaging()
	}
	return nil
}

// OpenStore opens a store on the engines of cfg. It scans the part of history
// that the index lacks, which verifies it; an empty index is built anew that
// way. The caller closes the engines after Close.
func OpenStore(cfg StoreConfig) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := newStore(cfg)
	if err := s.loadHistory(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.loadIndex(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := s.indexTail(); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// loadHistory reads where history stands and which uploads are open.
func (s *Store) loadHistory() error {
	return s.history.View(func(tx Tx) error {
		snap, err := readSnapshot(tx)
		if err != nil {
			return err
		}
		s.applied, s.durable, s.uploads = snap.position, snap.position, snap.uploads
		return nil
	})
}

// readSnapshot reads the whole state of history but records and chunks.
func readSnapshot(tx Tx) (*snapshot, error) {
	snap := &snapshot{uploads: make(map[uploadID]*upload)}
	if raw := tx.Get(BucketState, keyPosition); raw != nil {
		p, err := decodePosition(raw)
		if err != nil {
			file, off := tx.Where(raw)
			return nil, &CorruptError{File: file, Offset: off, Detail: "the position: " + err.Error()}
		}
		snap.position = p
	}
	var failed error
	tx.Ascend(BucketUploads, nil, func(k, v []byte) bool {
		if len(k) != len(uploadID{}) {
			file, off := tx.Where(v)
			failed = &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("an upload id has %d bytes", len(k))}
			return false
		}
		u, err := checkUpload(tx, uploadID(k), v)
		snap.uploads[uploadID(k)], failed = u, err
		return err == nil
	})
	return snap, failed
}

// checkUpload decodes a stored upload.
func checkUpload(tx Tx, id uploadID, raw []byte) (*upload, error) {
	u, err := decodeUpload(id, raw)
	if err != nil {
		file, off := tx.Where(raw)
		return nil, &CorruptError{File: file, Offset: off, Detail: err.Error()}
	}
	return u, nil
}

// loadIndex reads how far the index goes and refuses one of another history.
func (s *Store) loadIndex() error {
	rev, digest, err := s.readIndexed(keyIndexed)
	if err != nil {
		return err
	}
	s.overlay.indexedRev, s.overlay.indexedDigest = rev, digest
	// A flush that was interrupted left keys beyond the mark. They are in this
	// history, or they would be taken for set when the log gives them again.
	rev, digest, err = s.readIndexed(keyIndexing)
	if err != nil || rev <= s.overlay.indexedRev {
		return err
	}
	if own, err := s.DigestAt(rev); err != nil {
		return err
	} else if own != digest {
		return corruptFile(s.index, fmt.Sprintf("it has keys of another history, whose digest at revision %d is %s; here it is %s", rev, digest, own))
	}
	return nil
}

// readIndexed reads a mark of the index, and refuses one beyond history.
func (s *Store) readIndexed(key []byte) (rev Revision, digest Digest, err error) {
	err = s.index.View(func(tx Tx) error {
		raw := tx.Get(BucketState, key)
		if raw == nil {
			return nil
		}
		file, off := tx.Where(raw)
		if rev, digest, err = decodeIndexed(key, raw); err != nil {
			return &CorruptError{File: file, Offset: off, Detail: fmt.Sprintf("the mark %q: %v", key, err)}
		}
		if rev > s.durable.rev {
			return fmt.Errorf("%s has keys up to revision %d, but history ends at revision %d: it belongs to another or a newer history; put the matching %s back, or, if this history is the right one, delete %s (it is rebuilt at the next start)",
				file, rev, s.durable.rev, historyFile, indexFile)
		}
		return nil
	})
	return rev, digest, err
}

// Bounds of one read transaction of a scan: short, so that writers and other
// readers are never held up.
const (
	scanRecords = 2000
	scanBytes   = 1 << 20
)

// indexTail brings the part of history that neither index nor overlay has into
// the overlay, flushing whatever fills up, so that memory stays bounded however
// long that part is. It verifies every record and the history digest.
func (s *Store) indexTail() error {
	s.mu.RLock() // a flush may be going on
	target := s.durable
	rev, digest := s.overlay.end()
	s.mu.RUnlock()
	long := target.rev-rev >= 1_000_000
	if long {
		s.logger.Info("indexing history", "from", rev, "to", target.rev)
	}
	if s.rebuildPays(target.rev - rev) {
		s.mu.Lock()
		s.overlay.freeze()
		s.mu.Unlock()
		if err := s.flushFrozen(context.Background()); err != nil {
			return err
		}
		if err := s.rebuildIndex(target); err != nil {
			return err
		}
		rev, digest = target.rev, target.digest
	}
	for rev < target.rev {
		batch, err := s.scanHistory(rev, target.rev, digest)
		if err != nil {
			return s.failed("scan history", err)
		}
		s.mu.Lock()
		for _, r := range batch {
			rev, digest = r.rev, r.digest
			s.overlay.add(r.key, rev, digest)
		}
		s.freezeLocked()
		due := s.flushDueLocked()
		s.mu.Unlock()
		if due {
			if err := s.flushFrozen(context.Background()); err != nil {
				return err
			}
		}
	}
	if digest != target.digest {
		return s.failed("scan history", s.digestMismatch(target.rev, digest, target.digest))
	}
	if long {
		s.logger.Info("history is indexed", "revision", target.rev)
	}
	return nil
}

// scannedRecord is what a scan keeps of a record.
type scannedRecord struct {
	key    Key
	rev    Revision
	digest Digest
}

// scanHistory reads some records after revision rev, whose digest is given, up
// to last. It returns at least one.
func (s *Store) scanHistory(rev, last Revision, digest Digest) ([]scannedRecord, error) {
	var batch []scannedRecord
	err := s.history.View(func(tx Tx) error {
		read := 0
		var failed error
		err := ascendRecords(tx, rev+1, func(got Revision, v []byte) bool {
			if got != rev+1 {
				return false // a gap; reported below
			}
			if read == 0 {
				tx.ReadAhead(v)
			}
			rev++
			d, err := checkRecord(tx, v, rev)
			if err != nil {
				failed = err
				return false
			}
			digest = nextDigest(digest, rev, d.header)
			batch = append(batch, scannedRecord{Key(d.key), rev, digest})
			read += len(v)
			return rev < last && len(batch) < scanRecords && read < scanBytes
		})
		if failed == nil {
			failed = err
		}
		if failed == nil && len(batch) == 0 {
			_, failed = readRecord(tx, rev+1) // says that it is missing
		}
		return failed
	})
	return batch, err
}

// digestMismatch says which file is to blame when records and marks disagree:
// the index when the scan started at its mark, history when it read all of it.
func (s *Store) digestMismatch(rev Revision, got, want Digest) error {
	blamed, detail := s.history, "its records do not give the digest it says"
	if s.overlay.indexedRev > 0 {
		blamed, detail = s.index, "it does not belong to this history (if a new one is refused too, history is damaged)"
	}
	return corruptFile(blamed, fmt.Sprintf("at revision %d: %s: digest %s, want %s", rev, detail, got, want))
}
