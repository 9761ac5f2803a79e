package bodies

import (
	"errors"
	"io/fs"
	"os"
	"sync"
)

// # Open files
//
// A segment is open while somebody uses it, and until Config.OpenFiles others were used
// since; the newest one, and one that is not durable, stays open. Who needs one more while
// all are in use waits. So there are about 50 files open, with the runs, however many
// segments there are. When the system is short of files what needs one fails with its
// error (internal/shortage), and nothing else.

// openFiles keeps few segments open: it opens one when somebody uses it, and closes that
// one before which nobody has used for longest. The newest stays open, and so does one
// that is not durable yet: whoever syncs it must hear of a write that failed.
type openFiles struct {
	max int // besides those that stay open

	mu      sync.Mutex
	changed sync.Cond             // a file is open or closed, or nobody uses it any more
	list    map[*segment]struct{} // that are open, or are being opened
	newest  *segment
	uses    uint64
}

// opened is what openFiles knows of a segment; guarded by its mu.
type opened struct {
	file    *os.File // nil: it is not open
	opening bool
	dropped bool // it is never opened again
	users   int
	used    uint64 // number of its last use
}

func newOpenFiles(most int) *openFiles {
	o := &openFiles{max: most, list: map[*segment]struct{}{}}
	o.changed.L = &o.mu
	return o
}

// use calls f with the file of a segment, which stays open meanwhile. It may wait until
// another one is not used any more, so f uses no other segment. A segment that was
// dropped is an os.ErrClosed.
func (g *segment) use(f func(file *os.File) error) error {
	file, err := g.files.acquire(g)
	if err != nil {
		return err
	}
	defer g.files.release(g)
	return f(file)
}

func (o *openFiles) acquire(g *segment) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for g.opening {
		o.changed.Wait()
	}
	if g.file == nil && !g.dropped {
		if err := o.reopen(g); err != nil {
			return nil, err
		}
	}
	if g.dropped {
		return nil, &fs.PathError{Op: "open", Path: g.path, Err: os.ErrClosed}
	}
	g.users++
	o.uses++
	g.used = o.uses
	return g.file, nil
}

func (o *openFiles) release(g *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if g.users--; g.users > 0 {
		return
	}
	if g.dropped {
		o.close(g)
	}
	o.changed.Broadcast()
}

// reopen opens a segment; mu is held, but not while it waits for the system.
func (o *openFiles) reopen(g *segment) error {
	g.opening = true
	for !o.makeRoom() {
		o.changed.Wait()
	}
	o.list[g] = struct{}{}
	o.mu.Unlock()
	file, err := os.OpenFile(g.path, os.O_RDWR, 0)
	o.mu.Lock()
	g.opening = false
	o.changed.Broadcast()
	if err == nil {
		g.file = file
		if g.dropped {
			o.close(g)
		}
		return nil
	}
	delete(o.list, g)
	switch {
	case g.dropped:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return g.damage(-1, "it is missing")
	}
	return err
}

// makeRoom reports whether one more may be opened, and closes those that were not used
// for longest if that is needed.
func (o *openFiles) makeRoom() bool { return o.closeIdle(o.max - 1) }

// closeIdle closes segments that nobody uses until only so many are open, besides those
// that stay open, and reports whether that is so.
func (o *openFiles) closeIdle(most int) bool {
	for {
		count, idle := o.look()
		if count <= most || idle == nil {
			return count <= most
		}
		o.close(idle)
	}
}

// look counts the segments that are open and need not be, and returns the one of them that
// nobody uses, and has not for longest; nil if there is none.
func (o *openFiles) look() (count int, idle *segment) {
	for g := range o.list {
		if g == o.newest || g.synced.Load() < g.size() {
			continue
		}
		count++
		if g.users == 0 && !g.opening && (idle == nil || g.used < idle.used) {
			idle = g
		}
	}
	return count, idle
}

// close closes the file of a segment that nobody uses. Nothing that was written waits to
// be synced, or else nobody needs it.
func (o *openFiles) close(g *segment) {
	_ = g.file.Close()
	g.file = nil
	delete(o.list, g)
}

// add takes over a file that was just made.
func (o *openFiles) add(g *segment, file *os.File) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g.file = file
	o.list[g] = struct{}{}
}

// keep says which one is the newest, nil if none is.
func (o *openFiles) keep(newest *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.newest = newest
	o.closeIdle(o.max)
	o.changed.Broadcast()
}

// drop closes a segment for ever, as soon as nobody uses it.
func (o *openFiles) drop(g *segment) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g.dropped = true
	if g.file != nil && g.users == 0 {
		o.close(g)
	}
	o.changed.Broadcast()
}
