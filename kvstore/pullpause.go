package kvstore

import (
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// pullWait is how long the bodies of a pull are kept for whoever goes on with it.
const pullWait = 10 * time.Minute

// pullPause keeps every body from the beginning of a pull until its install has counted
// those that it brought. A pull may break off for good: after pullWait without a user
// nothing is kept, and the next pull looks whether all is still here. It is safe for
// concurrent use.
type pullPause struct {
	bodies *bodies.Store

	mu     sync.Mutex
	resume func()      // ends what keeps the bodies; nil: nothing does
	users  int         // between begin and its end
	timer  *time.Timer // while there is no user
	closed bool        // nobody begins any more
	whole  bool        // all that staging names is here, and was kept since somebody looked
}

// begin keeps all bodies until end or finish, one of which must follow. It reports
// whether all that staging names is known to be here.
func (p *pullPause) begin() (whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users++
	p.stopLocked()
	if p.resume == nil {
		p.resume = p.bodies.Pause()
	}
	return p.whole
}

// end ends a use after which something is left to pull, within pullWait. whole: all that
// staging names is here.
func (p *pullPause) end(whole bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
	p.whole = whole
	if p.users > 0 || p.closed {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(pullWait, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.timer == t { // nobody has begun meanwhile
			p.liftLocked()
		}
	})
	p.timer = t
}

// finish ends a use after which staging is gone, and what came with it is counted.
func (p *pullPause) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users == 0 {
		p.liftLocked()
	}
}

// close keeps nothing any more: the store is closed.
func (p *pullPause) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.liftLocked()
}

func (p *pullPause) liftLocked() {
	p.stopLocked()
	p.whole = false
	if p.resume != nil {
		p.resume()
		p.resume = nil
	}
}

func (p *pullPause) stopLocked() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}
