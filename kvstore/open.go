package kvstore

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/Focinfi/oncekv/bodies"
	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/keyruns"
	"github.com/Focinfi/oncekv/kvstore/engine"
)

// historyMapBytes is address space kept free for history to grow into.
const historyMapBytes = 10 << 30

// IsFile reports whether a store keeps something of that name in its directory.
func IsFile(name string) bool {
	switch strings.TrimSuffix(name, engine.Creating) {
	case historyFile, indexDir, oldIndexFile, stagingFile, scratchFile, valuesDir:
		return true
	}
	return false
}

// OpenStoreDir opens the store in directory dir, which is made when missing:
// history.db, index, values and, during a snapshot, staging.db. It fills the engines,
// index and bodies of cfg. A directory in use by another process is refused at once.
//
// A missing index is rebuilt from history.db, about a second a million keys; so is
// index.db, that of an earlier version, which Run removes. A history in a format that this
// version does not read is refused with a *level.LaterError or *level.EarlierError, before
// anything is changed.
func OpenStoreDir(dir string, cfg StoreConfig) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := checkHistoryThere(dir); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	history, err := openBolt(filepath.Join(dir, historyFile), engine.BoltOptions{MapBytes: historyMapBytes, FillPages: true})
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	if err := checkHistory(dir, history); err != nil { // what another version wrote is left alone
		return nil, errors.Join(fmt.Errorf("open store: %w", err), history.Close())
	}
	index, err := openIndex(dir, &cfg)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), history.Close())
	}
	values, err := bodies.Open(bodies.Config{Dir: filepath.Join(dir, valuesDir), Logger: cfg.Logger})
	if err != nil {
		_, damaged := errors.AsType[*bodies.DamageError](err)
		if err = fmt.Errorf("open store: %w", err); damaged || errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) {
			err = fmt.Errorf("%w; put back what was there, or replace this node: remove the member, empty the data directory, join again", err)
		}
		return nil, errors.Join(err, history.Close(), index.Close())
	}
	closeAll := func(err error) error { return errors.Join(err, history.Close(), index.Close(), values.Close()) }
	cfg.Bodies = values
	staging := filepath.Join(dir, stagingFile)
	cfg.History, cfg.Index = history, index
	cfg.OpenStaging = func() (engine.Engine, error) { return openBolt(staging, engine.BoltOptions{FillPages: true}) }
	cfg.RemoveStaging = func() error {
		if err := os.Remove(staging); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop staging: %w", err)
		}
		return fsync.SyncDir(dir)
	}
	scratch := filepath.Join(dir, scratchFile)
	if err := os.Remove(scratch); err != nil && !errors.Is(err, fs.ErrNotExist) { // a crash left it
		return nil, closeAll(fmt.Errorf("open store: %w", err))
	}
	cfg.OpenScratch = func() (Scratch, error) { return openScratchFile(scratch) }
	s, err := OpenStore(cfg)
	if err != nil {
		return nil, closeAll(err)
	}
	s.owned, s.dir = true, dir
	if err := s.dropOldStaging(staging); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// checkHistoryThere refuses an index, or values, without their history, which is made
// before them. A new history in its place would be empty.
func checkHistoryThere(dir string) error {
	history := filepath.Join(dir, historyFile)
	if _, err := os.Stat(history); !errors.Is(err, fs.ErrNotExist) {
		return nil // or why not is said when it is opened
	}
	for _, name := range []string{indexDir, oldIndexFile, valuesDir} {
		there := filepath.Join(dir, name)
		if _, err := os.Stat(there); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is missing, but %s is there; put it back, or replace this node: remove the member, empty the data directory, join again", history, there)
		}
	}
	return nil
}

// checkHistory refuses a history of another version, and one that something was put into
// without its values, which are made before anything can be put.
func checkHistory(dir string, history engine.Engine) error {
	values, used := filepath.Join(dir, valuesDir), false
	if err := history.View(func(tx engine.Tx) error {
		p, err := storedApplied(tx)
		used = p.rev > 0
		tx.Ascend(engine.BucketUploads, nil, func(_, _ []byte) bool {
			used = true
			return false
		})
		return err
	}); err != nil || !used {
		return err
	}
	if _, err := os.Lstat(values); !errors.Is(err, fs.ErrNotExist) {
		return nil // or why not is said when they are opened
	}
	return fmt.Errorf("%s is missing, but %s is there; put it back, or replace this node: remove the member, empty the data directory, join again", values, filepath.Join(dir, historyFile))
}

// openIndex opens the index, or makes an empty one.
func openIndex(dir string, cfg *StoreConfig) (*keyruns.Index, error) {
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	index, err := keyruns.Open(keyruns.Config{Files: keyruns.OSFiles(filepath.Join(dir, indexDir)), Logger: logger, Spread: cfg.Spread})
	if errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.ENOTDIR) {
		return nil, fmt.Errorf("%w; delete %s: it is rebuilt from history at the next start", err, indexDir)
	}
	if err != nil {
		return nil, indexError(err)
	}
	old := filepath.Join(dir, oldIndexFile)
	if _, err := os.Lstat(old); err == nil && index.Mark() == (keyruns.Mark{}) {
		logger.Info("the index of an earlier version is not read; it is rebuilt from history", "file", old)
	}
	return index, nil
}

// dropOldIndex removes the index of an earlier version: its keys are in index now, or in
// the memtable.
func (s *Store) dropOldIndex() error {
	if s.dir == "" {
		return nil
	}
	found := false
	for _, name := range []string{oldIndexFile, oldIndexFile + engine.Creating} {
		switch err := os.Remove(filepath.Join(s.dir, name)); {
		case err == nil:
			found = true
		case !errors.Is(err, fs.ErrNotExist):
			s.logger.Warn("cannot remove the index of an earlier version; it is not used: remove it by hand", "error", err)
		}
	}
	if !found {
		return nil
	}
	s.logger.Info("removed the index of an earlier version; the directory " + indexDir + " has replaced it")
	return fsync.SyncDir(s.dir)
}

// scratchOnDisk is a Scratch in a file, which goes when it is closed.
type scratchOnDisk struct{ *os.File }

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

// dropOldStaging removes what a crash left of an install that was otherwise complete. A
// staging area that may be wanted is left to Stage, and what it names is kept for a while.
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
	s.pulls.begin()
	s.pulls.end(false)
	return nil
}

// OpenStore opens a store on what cfg has, which the caller closes after Close. It scans
// and verifies the part of history that the index lacks: all of it if the index is empty.
func OpenStore(cfg StoreConfig) (*Store, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	s := newStore(cfg)
	if err := s.load(); err != nil {
		s.resume()
		return nil, fmt.Errorf("open store: %w", err)
	}
	return s, nil
}

// load reads where history stands, which uploads are open, and how far the index goes.
func (s *Store) load() error {
	if err := s.history.View(func(tx engine.Tx) error {
		snap, err := readSnapshot(tx)
		if err != nil {
			return err
		}
		s.applied, s.durable, s.uploads = snap.appliedState, snap.appliedState, snap.uploads
		s.lineage, s.kept = snap.lineage, snap.lineage
		_, err = storedMeta(tx) // which must be sound
		return err
	}); err != nil {
		return err
	}
	at, err := s.loadIndex()
	if err != nil {
		return err
	}
	if err := s.indexTail(&at); err != nil {
		return err
	}
	if err := s.countHistory(); err != nil {
		return err
	}
	for _, id := range sortedUploads(s.uploads) {
		if err := s.history.View(func(tx engine.Tx) error {
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
	if err := s.bodies.Counted(); s.bodies.Err() != nil {
		return s.failed("keep what was counted", s.bodyError(bodies.Digest{}, err))
	}
	return nil
}

// loadIndex reads how far the index goes, refuses one of another history or beyond this
// one, and returns what history is there.
func (s *Store) loadIndex() (at derived, err error) {
	m := s.index.Mark()
	rev := Revision(m.Revision)
	if rev > s.durable.rev {
		return at, fmt.Errorf("%s has keys up to revision %d, but history ends at revision %d: it belongs to another or a newer history; put the matching %s back, or, if this history is the right one, delete the directory %s (it is rebuilt at the next start)",
			s.index.Path(), rev, s.durable.rev, historyFile, indexDir)
	}
	if at, err = s.derivedAt(rev); err != nil {
		return at, err
	}
	if own := at.digest(); rev > 0 && own != Digest(m.Digest) {
		return at, s.corruptIndex(fmt.Sprintf("it has keys of another history, whose digest at revision %d is %s; here it is %s", rev, Digest(m.Digest), own))
	}
	s.memtable.indexedRev = at.rev
	return at, nil
}

// boltFile is an engine on a bbolt file, whose damage is a *CorruptError.
type boltFile struct{ engine.Engine }

func openBolt(path string, opts engine.BoltOptions) (engine.Engine, error) {
	e, err := engine.OpenBolt(path, opts)
	if err != nil {
		return nil, storeError(err)
	}
	return boltFile{e}, nil
}

// View is Engine.View.
func (f boltFile) View(fn func(engine.Tx) error) error { return storeError(f.Engine.View(fn)) }

// Update is Engine.Update.
func (f boltFile) Update(fn func(engine.Tx) error) error { return storeError(f.Engine.Update(fn)) }
