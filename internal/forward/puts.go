package forward

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
	"github.com/Focinfi/oncekv/internal/nodehttp"
)

// openTimeout is how long a database node has to take a stream, and how long a stream
// may say nothing while it is asked.
const openTimeout = 10 * time.Second

// ErrNotDone: no database node has carried anything of the put out, or judged it. It
// may be passed on as a request of its own.
var ErrNotDone = errors.New("the put was not decided by a frame")

// PutAnswer is what a database node answers to a put in a frame: Set, or Problem if
// that is not nil.
type PutAnswer struct {
	Set     frame.Set
	Problem *frame.Problem
	History string // that the answer is of, "" if the node did not say
}

// puts sends puts as frames to database nodes.
type puts struct {
	lanes     *mux.Lanes
	transport *http.Transport

	mu    sync.Mutex
	nodes map[string]*mux.Lane // by URL
}

func newPuts() *puts {
	transport := nodehttp.NewTransport(nodehttp.Options{DialTimeout: dialTimeout, ContinueTimeout: time.Second})
	transport.WriteBufferSize, transport.ReadBufferSize = mux.BufferBytes, mux.BufferBytes
	return &puts{transport: transport, lanes: mux.NewLanes(nodehttp.Over(transport), openTimeout), nodes: make(map[string]*mux.Lane)}
}

func (p *puts) close() {
	p.lanes.Close()
	p.transport.CloseIdleConnections()
}

func (p *puts) lane(database string) *mux.Lane {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.nodes[database]
	if l == nil {
		l = p.lanes.Lane(database+"/keys", nil)
		p.nodes[database] = l
	}
	return l
}

// putCall is a put on its way.
type putCall struct {
	mux.Call
	put    *frame.Put
	answer PutAnswer
}

// AppendFrame implements mux.Request.
func (c *putCall) AppendFrame(out []byte, id uint32) []byte {
	c.put.ID = id
	return frame.AppendPut(out, c.put)
}

// Answered implements mux.Request.
func (c *putCall) Answered(f *frame.Frame) (err error) {
	if f.Kind == frame.KindProblem {
		p, err := f.Problem()
		c.answer.Problem = &p
		return err
	}
	c.answer.Set, err = f.Set()
	return err
}

// Put sends a put, which must fit a frame, to the leader or else to the first database
// node, together with the others that are under way. It waits for no stream: while one
// is being opened, and when the node refuses the put for reasons that say nothing about
// the key, the error is ErrNotDone. Any other error is an http.Handler, which answers
// the client's request as ServeHTTP does when no answer came.
//
// The answer is the one that the node gives to the same put as a request of its own.
func (h *Handler) Put(ctx context.Context, put *frame.Put) (PutAnswer, error) {
	databases := h.cfg.Databases()
	if len(databases) == 0 {
		return PutAnswer{}, ErrNotDone
	}
	database := databases[0]
	if leader := h.cfg.Leader(); slices.Contains(databases, leader) {
		database = leader
	}
	s := h.puts.lane(database).Stream()
	if s == nil {
		return PutAnswer{}, ErrNotDone
	}
	c := &putCall{put: put}
	sent, err := s.Do(ctx, &c.Call, c, answerTimeout)
	var ended *mux.EndedError
	switch {
	case err == nil && decided(c.answer.Problem):
		c.answer.History = s.History
		return c.answer, nil
	case err == nil, !sent, errors.As(err, &ended):
		return PutAnswer{}, ErrNotDone
	}
	if ctx.Err() == nil {
		h.cfg.Failed(database)
	}
	return PutAnswer{}, &unanswered{sent: true, said: []string{fmt.Sprintf("%s: %s", database, nodehttp.Reason(err))}}
}

// decided reports whether a problem, nil for none, is the last word about a put: the
// key is set, or the outcome is unknown. All others are refusals of a put that was not
// done, and another node, or the same one, may say more about them.
func decided(p *frame.Problem) bool {
	return p == nil || p.HasWinner || p.Status == http.StatusInternalServerError || p.Status == http.StatusGatewayTimeout
}
