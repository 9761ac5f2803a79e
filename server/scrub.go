package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/fsync"
	"github.com/Focinfi/oncekv/internal/writefault"
	"github.com/Focinfi/oncekv/kvstore"
)

// DefaultScrubInterval is how often a database node reads everything that it stores.
const DefaultScrubInterval = 7 * 24 * time.Hour

// scrubIntervalMin keeps a node from scrubbing without a pause.
const scrubIntervalMin = time.Second

// scrubRate is the speed of a scrub in bytes a second, a twentieth of a disk's. A scrub
// that could not finish within half of the interval reads faster.
const scrubRate = 20 << 20

// scrubFile holds the time of the next scrub and the result of the last one. It is written
// as scrubFileNew and renamed.
const (
	scrubFile    = "scrub"
	scrubFileNew = "scrub.new"
)

const scrubFileBytesMax = 16 << 10 // a node writes less

// scrubNote is the content of scrubFile.
type scrubNote struct {
	Due      time.Time     `json:"due"`
	LastEnd  time.Time     `json:"last_end,omitzero"`
	LastTook time.Duration `json:"last_took_ns,omitzero"`
	Result   string        `json:"last_result,omitempty"`
}

// scrubber reads everything that a node stores, once in each interval, measured from end to
// end. The due time is on disk, so that restarts do not delay it. Owned by run; status may
// be called from any goroutine.
type scrubber struct {
	dir      string
	interval time.Duration // 0: never
	size     func() int64  // estimate of the bytes to read
	read     func(ctx context.Context, rate int64, progress func(done, total int64)) error
	logger   *slog.Logger

	mu       sync.Mutex
	note     scrubNote
	running  bool
	fraction float64
}

// newScrubber reads the note of an earlier process.
func newScrubber(dir string, interval time.Duration, size func() int64, read func(context.Context, int64, func(done, total int64)) error, logger *slog.Logger) *scrubber {
	s := &scrubber{dir: dir, interval: interval, size: size, read: read, logger: logger}
	note, err := readScrubNote(filepath.Join(dir, scrubFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		logger.Warn("could not read when the last scrub ended", "err", err)
	}
	s.note = note
	return s
}

// run scrubs whenever a scrub is due, until ctx ends; then it returns nil. It logs and
// returns damage that a scrub found, even if the damage ended ctx.
func (s *scrubber) run(ctx context.Context) error {
	if s.interval <= 0 {
		return nil
	}
	if err := s.plan(time.Now()); err != nil {
		return err
	}
	for {
		timer := time.NewTimer(time.Until(s.last().Due))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
		if err := s.scrub(ctx); err != nil {
			if ended := ctx.Err(); ended != nil && errors.Is(err, ended) {
				return nil
			}
			return err
		}
	}
}

// plan decides when the first scrub after a start is due: at the noted time, unless nothing
// was noted, damage was found, or the interval has become shorter.
func (s *scrubber) plan(now time.Time) error {
	note := s.last()
	switch {
	case note.Result != "" && note.Result != api.ScrubOK:
		note.Due = now
	case note.Due.IsZero(), note.Due.Sub(now) > s.interval:
		note.Due = now.Add(time.Duration(rand.Float64() * float64(s.interval))) // spread the replicas, which begin together
	default:
		return nil
	}
	return s.keep(note)
}

// scrub reads everything once.
func (s *scrubber) scrub(ctx context.Context) error {
	begin, size := time.Now(), s.size()
	pace := max(scrubRate, int64(2*float64(size)/s.interval.Seconds()))
	s.logger.Info("scrub started", "bytes", size, "bytes_per_second", pace)
	s.progress(true, 0)
	defer s.progress(false, 0)
	err := s.read(ctx, pace, func(done, total int64) {
		if total > 0 {
			s.progress(true, min(1, float64(done)/float64(total)))
		}
	})
	// Damage stops the store, which may end ctx before this goroutine gets here.
	var damage *kvstore.CorruptError
	if ctx.Err() != nil && !errors.As(err, &damage) {
		return ctx.Err()
	}
	end := time.Now()
	took := end.Sub(begin)
	note := scrubNote{LastEnd: end.UTC(), LastTook: took, Result: api.ScrubOK}
	if err != nil {
		s.logger.Error("scrub found damage on this node's disk", "err", err) // the store's error may already be stopping the node
		err = fmt.Errorf("a scrub found damage on this node's disk: %w", err)
		note.Due, note.Result = end, err.Error()
		return errors.Join(err, s.keep(note))
	}
	// The next scrub must end within the interval, and other replicas should start at other
	// times.
	rest := max(0, float64(s.interval-took))
	note.Due = end.Add(time.Duration(rest * (1 + rand.Float64()) / 2))
	s.logger.Info("scrub found no damage", "took", took, "next", note.Due)
	return s.keep(note)
}

func (s *scrubber) progress(running bool, fraction float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running, s.fraction = running, fraction
}

func (s *scrubber) last() scrubNote {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.note
}

// status returns how far the scrub is, and how the last one ended.
func (s *scrubber) status() api.Scrub {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := api.Scrub{Running: s.running, Fraction: s.fraction, LastTookSeconds: s.note.LastTook.Seconds(), LastResult: s.note.Result}
	if end := s.note.LastEnd; !end.IsZero() {
		out.LastEnd = &end
	}
	return out
}

// keep notes something for the next start. Only a failed write that makes the disk
// untrustworthy is an error: without a note, the next start plans anew.
func (s *scrubber) keep(note scrubNote) error {
	s.mu.Lock()
	s.note = note
	s.mu.Unlock()
	err := writeScrubNote(s.dir, note)
	if err != nil && !errors.Is(err, ErrDiskFailed) {
		s.logger.Warn("could not save when the next scrub is due", "err", err)
		return nil
	}
	return err
}

func readScrubNote(path string) (note scrubNote, err error) {
	f, err := os.Open(path)
	if err != nil {
		return note, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, scrubFileBytesMax))
	if err != nil {
		return note, err
	}
	if err := json.Unmarshal(b, &note); err != nil {
		return scrubNote{}, fmt.Errorf("%s: %w", path, err)
	}
	return note, nil
}

func writeScrubNote(dir string, note scrubNote) error {
	b, err := json.Marshal(note)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, scrubFileNew)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err := writefault.Mark(errors.Join(err, f.Close())); err != nil {
		return err
	}
	if err := os.Rename(path, filepath.Join(dir, scrubFile)); err != nil {
		return err
	}
	return writefault.Mark(fsync.Sync(dir))
}
