package server

import (
	"context"
	"sync"
	"time"
)

// diskless is the common part of a cache node and an admin: a listener and a goroutine, but no
// disk. Its methods may be called from any goroutine.
type diskless struct {
	public  *listener
	started time.Time

	stop     context.CancelFunc // ends work
	streams  chan struct{}      // closed by close to end streams
	running  sync.WaitGroup
	worked   chan struct{} // closed when work has returned
	closing  sync.Once
	failOnce sync.Once
	done     chan struct{}
	err      error // set before done is closed
}

func newDiskless(public *listener) *diskless {
	return &diskless{public: public, started: time.Now(), streams: make(chan struct{}), worked: make(chan struct{}), done: make(chan struct{})}
}

// run serves the prepared listener and runs work until close. The first of the two that
// ends with an error ends the node.
func (l *diskless) run(work func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() { l.finish(l.public.serve()) })
	l.running.Go(func() {
		defer close(l.worked)
		l.finish(work(ctx))
	})
}

func (l *diskless) finish(err error) {
	if err == nil {
		return
	}
	l.failOnce.Do(func() {
		l.err = err
		l.stop()
		_ = l.public.srv.Close()
		close(l.done)
	})
}

// close ends streams, calls takeDown, and returns the reason if the node had already
// stopped by itself. It does so once; later calls wait for the first.
func (l *diskless) close(takeDown func()) error {
	l.closing.Do(func() {
		close(l.streams)
		takeDown()
		l.failOnce.Do(func() { close(l.done) })
	})
	<-l.done
	return l.err
}

// Done is closed when the node has stopped, by Close or by itself.
func (l *diskless) Done() <-chan struct{} { return l.done }

// Err returns why the node stopped by itself; nil before Done is closed and after Close.
func (l *diskless) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// URL returns where clients reach the node.
func (l *diskless) URL() string { return l.public.url }
