package client

import (
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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

func (c *Client) watchSilence(call *call, until time.Time) *silence {
	if c.onSilence == nil {
		return nil
	}
	tell := c.onSilence
	if call.tell != nil {
		tell = call.tell
	}
	s := &silence{tell: tell, heard: &c.answered, what: Silence{Op: call.name(), Endpoints: c.endpoints, Until: until}, after: silentAfter}
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

// nobodyListens reports that there is nothing at any endpoint, nor ever was since
// the client was made: it does not look like a node that is starting again.
func (c *Client) nobodyListens(t *tries) bool {
	if !c.failRefused || t.call.unsure || c.answered.Load() {
		return false
	}
	for _, endpoint := range c.endpoints { // one may be given twice
		if !slices.ContainsFunc(t.failures, func(e *EndpointError) bool { return e.Endpoint == endpoint && refused(e.Err) }) {
			return false
		}
	}
	return true
}

// refused: nothing listens there, or there is no such host.
func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || noSuchHost(err)
}

func noSuchHost(err error) bool {
	var name *net.DNSError
	return errors.As(err, &name) && name.IsNotFound
}

// heard notes that an endpoint has answered.
func (c *Client) heard() {
	if (c.failRefused || c.onSilence != nil) && !c.answered.Load() {
		c.answered.Store(true)
	}
}
