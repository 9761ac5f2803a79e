package server

import (
	"context"
	"sync"
	"time"
)

// light is what a cache node and an admin have in common: a listener, something
// that runs, and no disk. Its methods may be called from any goroutine.
type light struct {
	public  *listener
	started time.Time

	stop     context.CancelFunc // ends what runs besides the listener
	streams  chan struct{}      // closed by close: answers that would go on for ever end
	running  sync.WaitGroup
	worked   chan struct{} // closed when what runs besides the listener has ended
	closing  sync.Once
	failOnce sync.Once
	done     chan struct{}
	err      error // set before done is closed
}

func newLight(public *listener) *light {
	return &light{public: public, started: time.Now(), streams: make(chan struct{}), worked: make(chan struct{}), done: make(chan struct{})}
}

// run serves the listener, which is prepared, and runs work until it is told to
// stop. The first of them that ends by itself with an error ends the node.
func (l *light) run(work func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.running.Go(func() { l.finish(l.public.serve()) })
	l.running.Go(func() {
		defer close(l.worked)
		l.finish(work(ctx))
	})
}

func (l *light) finish(err error) {
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

// close ends streams, takes the node down in the order that is right for it, and
// returns why it had stopped before, if it had. It does so once; whoever calls
// it again waits.
func (l *light) close(takeDown func()) error {
	l.closing.Do(func() {
		close(l.streams)
		takeDown()
		l.failOnce.Do(func() { close(l.done) })
	})
	<-l.done
	return l.err
}

// Done is closed when the node has stopped, by Close or by itself.
func (l *light) Done() <-chan struct{} { return l.done }

// Err says why the node stopped by itself; nil before Done is closed and after
// Close.
func (l *light) Err() error {
	select {
	case <-l.done:
		return l.err
	default:
		return nil
	}
}

// URL returns where clients reach the node.
func (l *light) URL() string { return l.public.url }
