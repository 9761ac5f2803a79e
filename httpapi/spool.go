package httpapi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// spoolMemoryBytes is what a spool holds before it begins a file.
const spoolMemoryBytes = 256 << 10

// SpillPrefix begins the names of the files that results spill to. They have a
// name for a moment only; a crash in it leaves one.
const SpillPrefix = "oncekv-results-"

// errStalled is returned when a spool is full and nothing is taken from it.
var errStalled = errors.New("more results are waiting to be read than this node keeps")

// spool is a queue of bytes between one goroutine that appends and one that
// takes. What does not fit its memory waits in a file, which has no name from
// the moment it is made, so that nothing is left of it whatever happens.
type spool struct {
	dir   string
	limit int64 // bytes of the file, which is written round and round; 0 or less: there is none

	ready chan struct{} // capacity 1: something can be taken
	room  chan struct{} // capacity 1: something was taken

	mu       sync.Mutex
	tail     []byte // behind what is in the file
	file     *os.File
	from, to int64 // what the file holds, as positions in all that ever went through it
	taken    bool  // something is, and may not have been sent yet
	broken   error // the file cannot be used
}

func newSpool(dir string, limit int64) *spool {
	return &spool{dir: dir, limit: limit, ready: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// push adds what render appends, whatever room there is.
func (s *spool) push(render func(tail []byte) []byte) {
	s.mu.Lock()
	s.tail = render(s.tail)
	s.mu.Unlock()
	wake(s.ready)
}

// size is how many bytes wait in memory.
func (s *spool) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.tail)
}

// append adds p, waiting for room if need be. When nothing was taken for the
// time of stall, it returns errStalled and has added nothing; zero is for ever.
func (s *spool) append(ctx context.Context, p []byte, stall time.Duration) error {
	for {
		if s.add(p) {
			wake(s.ready)
			return nil
		}
		if err := s.awaitRoom(ctx, stall); err != nil {
			return err
		}
	}
}

func (s *spool) awaitRoom(ctx context.Context, stall time.Duration) error {
	var late <-chan time.Time
	if stall > 0 {
		timer := time.NewTimer(stall)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-s.room:
		return nil
	case <-late:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.broken != nil {
			return fmt.Errorf("%w (%w)", errStalled, s.broken)
		}
		return errStalled
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// add adds p if there is room.
func (s *spool) add(p []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tail) > 0 && len(s.tail)+len(p) > spoolMemoryBytes && !s.spill() {
		return false
	}
	s.tail = append(s.tail, p...)
	return true
}

// spill moves the tail into the file, if it fits.
func (s *spool) spill() bool {
	if s.broken != nil || s.to-s.from+int64(len(s.tail)) > s.limit {
		return false
	}
	if s.file == nil {
		if s.file, s.broken = unnamedFile(s.dir); s.broken != nil {
			return false
		}
	}
	for done := 0; done < len(s.tail); {
		at := (s.to + int64(done)) % s.limit
		n, err := s.file.WriteAt(s.tail[done:min(int64(len(s.tail)), int64(done)+s.limit-at)], at)
		if err != nil {
			s.broken = err // what it holds is read, nothing is added
			return false
		}
		done += n
	}
	s.to += int64(len(s.tail))
	s.tail = s.tail[:0]
	return true
}

func unnamedFile(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, SpillPrefix+"*")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// take returns the next bytes, in buf or in memory of the spool's own, and whether
// others are there already. It returns none if there are none now. buf is the spool's
// from then on.
func (s *spool) take(buf []byte) (p []byte, more bool, err error) {
	if s.limit == 0 && cap(buf) > spoolMemoryBytes { // push knows no limit
		buf = nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.from < s.to:
		if p, err = s.readBack(buf); err != nil {
			return nil, false, err
		}
		more = s.from < s.to || len(s.tail) > 0
	case len(s.tail) > 0:
		p, s.tail = s.tail, buf[:0]
	default:
		return buf[:0], false, nil
	}
	s.taken = true
	wake(s.room)
	return p, more, nil
}

// readBack reads what the file holds, a piece at a time.
func (s *spool) readBack(buf []byte) ([]byte, error) {
	if cap(buf) < pieceBytes {
		buf = make([]byte, pieceBytes)
	}
	at := s.from % s.limit
	p := buf[:min(int64(cap(buf)), s.to-s.from, s.limit-at)]
	if n, err := s.file.ReadAt(p, at); n < len(p) {
		return nil, fmt.Errorf("read results back: %w", err)
	}
	s.from += int64(len(p))
	return p, nil
}

// sent says that the client has what was taken.
func (s *spool) sent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = false
}

// empty reports whether nothing waits to be taken, or to be sent.
func (s *spool) empty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.from == s.to && len(s.tail) == 0 && !s.taken
}

// free closes the file. Nobody uses the spool any more.
func (s *spool) free() {
	if s.file != nil {
		_ = s.file.Close()
	}
}

// wake makes whoever waits for c, or will next, look again.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
