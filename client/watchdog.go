package client

import (
	"sync"
	"time"
)

// watchdog ends a try in which nothing has moved for its time, unless nothing
// was owed in that time.
type watchdog struct {
	owed func() time.Duration // nil: something always is
	bite func()

	mu    sync.Mutex
	timer *time.Timer
	armed bool
	idle  time.Duration
}

func newWatchdog(idle time.Duration, owed func() time.Duration, bite func()) *watchdog {
	w := &watchdog{owed: owed, bite: bite, armed: true, idle: idle}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(idle, w.expired)
	return w
}

// reset gives the try its time again, idle from now.
func (w *watchdog) reset(idle time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed, w.idle = true, idle
	w.timer.Reset(idle)
}

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	w.timer.Stop()
}

// expired bites, or waits until what is owed has been owed for long enough.
func (w *watchdog) expired() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !w.armed:
		return
	case w.owed != nil:
		if owed := w.owed(); owed < w.idle {
			w.timer.Reset(w.idle - owed)
			return
		}
	}
	w.bite()
}
