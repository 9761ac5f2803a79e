package kvstore

import (
	"sync"
	"time"

	"github.com/Focinfi/oncekv/bodies"
)

// pullWait is how long the bodies of a pull are kept for whoever goes on with it.
const pullWait = 10 * time.Minute

// pullPause keeps every body that is here from the beginning of a pull until its install
// has counted those that it brought: nothing else does meanwhile. A pull may break off,
// and nobody may ever go on with it. So after pullWait without anybody at it nothing is
// kept any more, and the next one has to look whether all is still here. It may be used
// from any goroutine.
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

// end is that of one who leaves something to do: it may be gone on with for pullWait.
// whole tells whether all that staging names is here.
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

// finish is the end of one who leaves nothing to do: staging is gone, and what came with
// it is counted.
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
