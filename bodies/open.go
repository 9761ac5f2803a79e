package bodies

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
)

// # A start
//
// Open reads the manifest, the end of each run, and those frames that the manifest does
// not cover, whole: what was never synced may have a right header and wrong bytes. If
// manifest or a run is missing or damaged, it makes the table anew: it reads all frames,
// keeps those that are whole, and the mark is zero. A lookup that finds a damaged block in
// a run removes the manifest, and ends the store: the next start makes the table anew.
// Until Counted says that it is complete, every start does.
// Behind a header that is damaged the next one is searched for; a frame that is found so
// must have its SHA-256.

// Open opens the store in cfg.Dir. It reads what was written since the last flush of the
// table, and cuts off what a process that was killed left unfinished. Without a table it
// reads everything. Nothing is reclaimed before Run.
func Open(cfg Config) (*Store, error) {
	if cfg.SegmentBytes <= 0 {
		cfg.SegmentBytes = 256 << 20
	}
	if cfg.Grace <= 0 {
		cfg.Grace = 10 * time.Second
	}
	if cfg.Round <= 0 {
		cfg.Round = 5 * time.Second
	}
	if cfg.ReclaimRate <= 0 {
		cfg.ReclaimRate = 32 << 20
	}
	if cfg.TableRows <= 0 {
		cfg.TableRows = defaultTableRows
	}
	if cfg.OpenFiles <= 0 {
		cfg.OpenFiles = 32
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	syncFile := func(seg *segment) error { return cfg.Sync(seg.path) }
	if cfg.Sync == nil {
		cfg.Sync = fsync.Sync
		syncFile = func(seg *segment) error { return seg.use(syncData) }
	}
	s := &Store{cfg: cfg, files: newOpenFiles(cfg.OpenFiles), syncFile: syncFile, segments: map[uint32]*segment{}}
	s.table.init(cfg.TableRows)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the values: %w", err)
	}
	// Whoever made the directory may have been killed before its name was durable.
	if err := writefault.Mark(cfg.Sync(filepath.Dir(cfg.Dir))); err != nil {
		return nil, fmt.Errorf("open the values in %s: %w", cfg.Dir, err)
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("open the values in %s: %w", cfg.Dir, err), s.closeFiles())
	}
	return s, nil
}

// load reads the table, and those parts of the segments that it does not cover. A table
// that is missing or damaged is made anew from the segments.
func (s *Store) load() error {
	segments, err := s.findSegments()
	if err != nil {
		return err
	}
	m, err := s.loadTable()
	fresh := errors.Is(err, fs.ErrNotExist) && len(segments) == 0
	anew := errors.Is(err, fs.ErrNotExist) || errors.As(err, new(*DamageError))
	s.table.anew = anew && !fresh
	if err != nil && !anew {
		return err
	}
	if anew {
		if !fresh {
			s.cfg.Logger.Warn("rebuilding the table of values: all values are read, and then counted again", "because", err)
		}
		if err := s.dropTable(); err != nil {
			return err
		}
	} else if err := s.adoptTable(m); err != nil {
		return err
	}
	for _, seg := range segments {
		if err := s.loadSegment(seg); err != nil {
			return err
		}
		s.setNewest(seg)
	}
	if err := writefault.Mark(s.cfg.Sync(s.cfg.Dir)); err != nil {
		return err
	}
	if !anew {
		return nil
	}
	if err := s.flush(nil); err != nil && s.Err() != nil {
		return err
	}
	if st := s.Stats(); !fresh {
		s.cfg.Logger.Warn("rebuilt the table of values", "bodies", st.Bodies, "segments", st.Segments)
	}
	return nil
}

// findSegments returns the segments in the order of their numbers.
func (s *Store) findSegments() ([]*segment, error) {
	names, err := filepath.Glob(filepath.Join(s.cfg.Dir, "*"+segmentSuffix))
	if err != nil {
		return nil, err
	}
	var list []*segment
	for _, path := range names {
		seg, err := foundSegment(path, s.files)
		if err != nil {
			return nil, err
		}
		s.segments[seg.number] = seg
		s.table.nextSegment = max(s.table.nextSegment, seg.number+1)
		list = append(list, seg)
	}
	slices.SortFunc(list, func(a, b *segment) int { return cmp.Compare(a.number, b.number) })
	return list, nil
}

// loadTable reads the manifest, and opens the runs. Nobody else uses the store yet.
func (s *Store) loadTable() (m manifest, err error) {
	t := &s.table
	if m, err = readManifest(s.cfg.Dir); err != nil {
		return m, err
	}
	for _, info := range m.runs {
		r, err := openRun(s.cfg.Dir, info)
		if err != nil {
			return m, err
		}
		t.runs = append(t.runs, r)
	}
	return m, removeOthers(s.cfg.Dir, &m)
}

// dropTable removes what there is of the table.
func (s *Store) dropTable() error {
	t := &s.table
	for _, r := range t.runs {
		_ = r.file.Close()
	}
	t.runs = nil
	if err := os.Remove(filepath.Join(s.cfg.Dir, manifestName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return removeOthers(s.cfg.Dir, &t.last)
}

// adoptTable takes over what the manifest says. A segment that it does not list is read
// as a new one: it may have been put back, or be there again after a crash although it
// was removed; then what it has is found dead, or stands for a copy.
func (s *Store) adoptTable(m manifest) error {
	t := &s.table
	t.last, t.epoch, s.mark, t.flushedRevision = m, m.epoch, m.mark, m.mark.Revision
	t.nextSegment = max(t.nextSegment, m.nextSegment)
	for _, info := range m.segments {
		seg := s.segments[info.number]
		if seg == nil {
			if info.bodies == 0 {
				continue
			}
			return missingSegment(s.cfg.Dir, info.number)
		}
		end, err := os.Stat(seg.path)
		if err != nil {
			return err
		}
		seg.figures = info.figures
		if info.bodies > 0 {
			if err := seg.checkHeader(); err != nil {
				return err
			}
		}
		if end.Size() < info.covered {
			if info.bodies > 0 {
				return seg.damage(end.Size(), fmt.Sprintf("it ends here, and not at %d or behind", info.covered))
			}
			seg.covered = end.Size()
		}
		s.live += info.counted
	}
	return nil
}

// loadSegment brings to the table what it does not cover of a segment.
func (s *Store) loadSegment(seg *segment) error {
	from := seg.covered
	err := seg.scan(from, s.cfg.Logger, func(d Digest, at place) error {
		if err := s.makeRoom(); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.insert(d, at)
	})
	if err != nil {
		return err
	}
	if from == 0 && seg.checkHeader() != nil { // it was never synced
		if err := seg.use(func(file *os.File) error {
			_, err := file.WriteAt(segmentHeader(seg.number), 0)
			return writefault.Mark(err)
		}); err != nil {
			return err
		}
	}
	if seg.size() > from || from == 0 {
		// What a process that was killed wrote may be in memory only.
		if err := s.cfg.Sync(seg.path); err != nil {
			return writefault.Mark(err)
		}
	}
	seg.synced.Store(seg.size())
	return nil
}

// scan calls f for every whole frame from an offset on, zero or the start of one. What
// follows the last is cut off by the next append, not before: a start that is refused
// changes nothing. All is read and checked: behind the offset may be what
// was never synced, and what was given back. Where no frame begins, it looks for the
// next.
func (g *segment) scan(from int64, log *slog.Logger, f func(d Digest, at place) error) error {
	info, err := os.Stat(g.path)
	if err != nil {
		return err
	}
	length := info.Size()
	length = max(length, int64(segmentHeaderBytes)) // whoever began it may have been killed
	at := max(from, int64(segmentHeaderBytes))
	end := at       // of what is kept
	lost := false   // between end and at is what no frame begins, or none that is whole
	strict := false // the frame was found by its looks: somebody's bytes may look so
	buf := make([]byte, MaxBytes)
	for at < length {
		d, size, sums, err := g.readHeader(at)
		if err != nil && !errors.As(err, new(*DamageError)) {
			return err
		}
		state := frameDamaged
		if err == nil && at+frameBytes(size) <= length {
			if state, err = g.check(d, size, sums, at, strict, buf); err != nil {
				return err
			}
			if state == frameDamaged && !strict {
				lost = true
				at += frameBytes(size)
				continue
			}
		}
		if state == frameDamaged {
			next, err := g.nextFrame(at+1, length)
			if err != nil {
				return err
			}
			if next < 0 {
				break
			}
			at, lost, strict = next, true, true
			continue
		}
		if lost {
			log.Error("a segment of values is damaged: bodies may be lost", "file", g.path, "from", end, "to", at)
			lost = false
		}
		if state == frameWhole {
			if err := f(d, place{g.number, at, size}); err != nil {
				return err
			}
		}
		at += frameBytes(size)
		end = at
	}
	if end < length {
		log.Info("ignoring what follows the last complete body of a segment", "file", g.path, "from", end, "bytes", length-end)
		g.tail = true
	}
	g.length.Store(end)
	return nil
}

// frameState says what there is of a frame whose header is right.
type frameState int

const (
	frameDamaged frameState = iota
	frameWhole
	frameGivenBack
)

// check reads a frame. A strict check goes by the digest, any other by the checksums of
// blocks.
func (g *segment) check(d Digest, size int, sums []byte, at int64, strict bool, buf []byte) (frameState, error) {
	data := buf[:size]
	if _, err := g.readAt(data, at+int64(headerBytes(size))); err != nil {
		if err == io.EOF {
			return frameDamaged, nil
		}
		return frameDamaged, err
	}
	whole := true
	for i := 0; i*BlockBytes < size && whole; i++ {
		block := data[i*BlockBytes : min(size, (i+1)*BlockBytes)]
		whole = crc32.Checksum(block, castagnoli) == binary.BigEndian.Uint32(sums[4*i:])
	}
	if whole && strict {
		whole = sha256.Sum256(data) == d
	}
	if whole {
		return frameWhole, nil
	}
	start := at + int64(headerBytes(size))
	hole, n := holeIn(place{g.number, at, size})
	if n == 0 || len(bytes.TrimLeft(data[hole-start:hole-start+n], "\x00")) > 0 {
		return frameDamaged, nil
	}
	return frameGivenBack, nil
}
