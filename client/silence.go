package client

import (
	"sync"
	"sync/atomic"
	"time"
)

// Silence is what Config.OnSilence is told: a request for which nothing has moved
// for a while, and which goes on trying. Either a try has failed, or no endpoint
// has answered anything yet; one that takes its time is not silent.
type Silence struct {
	Op        string         // such as `put "foo"`
	Endpoints []string       // all of them
	Last      *EndpointError // how the last try ended; nil while the first one waits
	Until     time.Time      // new tries are begun until then
}

// How long nothing moves before that is told: a little less than the second after
// which a person wonders, or longer where somebody has taken the connection, who may
// just be slow.
const (
	silentAfter          = 800 * time.Millisecond
	silentAfterConnected = 3 * time.Second
)

// silence watches one request. Its methods may be called on nil, which tells
// nothing.
type silence struct {
	tell  func(Silence)
	heard *atomic.Bool // some endpoint has answered, ever

	mu    sync.Mutex // held also while tell runs
	what  Silence
	timer *time.Timer
	after time.Duration
	over  bool // told, or the request has ended
}

func newSilence(tell func(Silence), heard *atomic.Bool, what Silence) *silence {
	s := &silence{tell: tell, heard: heard, what: what, after: silentAfter}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.timer = time.AfterFunc(s.after, s.expired)
	return s
}

func (s *silence) expired() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over:
	case s.what.Last == nil && s.heard.Load(): // it is there, and slow
		s.timer.Reset(s.after)
	default:
		s.over = true
		s.tell(s.what)
	}
}

// failed notes how a try ended.
func (s *silence) failed(err *EndpointError) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := s.what.Last == nil
	if s.what.Last = err; first {
		s.again(silentAfter)
	}
}

// connected is called when the request has a connection.
func (s *silence) connected() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.what.Last == nil {
		s.again(silentAfterConnected)
	}
}

// again gives the request its time again.
func (s *silence) again(after time.Duration) {
	if s.after = after; !s.over {
		s.timer.Reset(after)
	}
}

// moved is called when bytes of the request were read.
func (s *silence) moved() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again(s.after)
}

// stop returns when nothing is told any more.
func (s *silence) stop() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
	s.timer.Stop()
}
