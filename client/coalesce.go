package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/frame"
	"github.com/Focinfi/oncekv/internal/mux"
)

// coalesceBytesMax is the largest value that travels with others. Larger ones gain
// nothing and would keep others waiting.
const coalesceBytesMax = 32 << 10

// coalescer lets concurrent Puts and Gets of a Client travel together. A call that is
// alone is a request of its own. Of those that are not, each becomes a frame on a
// stream to POST /keys or POST /keys/get of the endpoint (package mux).
//
// A call uses a stream that is up and never waits for one: the first ones go alone
// while it is being opened, and so do all at an endpoint that does not know frames.
// Client.do decides what becomes of a call otherwise (tries, endpoints, time limits);
// to it, a stream is only another way to try.
type coalescer struct {
	lanes *mux.Lanes
	own   *http.Transport
	puts  []*mux.Lane // one for each endpoint
	gets  []*mux.Lane

	putting, getting atomic.Int64 // calls under way
}

func newCoalescer(c *Client, given *http.Client) *coalescer {
	co := new(coalescer)
	hc := *c.http
	hc.Timeout = 0
	if given == nil {
		co.own = newTransport()
		co.own.WriteBufferSize, co.own.ReadBufferSize = mux.BufferBytes, mux.BufferBytes
		hc.Transport = co.own
	}
	co.lanes = mux.NewLanes(&hc, c.idleTimeout)
	for n, endpoint := range c.endpoints {
		co.puts = append(co.puts, co.lanes.Lane(endpoint+"/keys", func(resp *http.Response) {
			c.histories.heard(resp.Header.Get(api.HeaderHistory))
			leads := resp.Header.Get(api.HeaderRole) == RoleLeader
			c.ranking.said(n, leads)
			if !leads { // puts take a detour
				c.ranking.seekLeader()
			}
		}))
		co.gets = append(co.gets, co.lanes.Lane(endpoint+"/keys/get", func(resp *http.Response) {
			c.histories.heard(resp.Header.Get(api.HeaderHistory))
		}))
	}
	return co
}

// close ends all streams.
func (co *coalescer) close() {
	co.lanes.Close()
	if co.own != nil {
		co.own.CloseIdleConnections()
	}
}

// framedCall is one call as a frame, for as many tries as go by streams.
type framedCall struct {
	lanes []*mux.Lane
	put   *frame.Put // or else get
	get   frame.Get
	alone bool // the last try was a request of its own

	// The answer to the last try by a stream.
	call    mux.Call
	err     error
	set     frame.Set
	value   frame.Value
	history string // of the node, if the stream told
	large   bool   // the value does not fit a frame
}

// AppendFrame implements mux.Request.
func (f *framedCall) AppendFrame(out []byte, id uint32) []byte {
	if f.put != nil {
		f.put.ID = id
		return frame.AppendPut(out, f.put)
	}
	f.get.ID = id
	return frame.AppendGet(out, &f.get)
}

// Answered implements mux.Request.
func (f *framedCall) Answered(answer *frame.Frame) (err error) {
	switch {
	case answer.Kind == frame.KindProblem:
		p, err := answer.Problem()
		if err != nil {
			return err
		}
		f.err = problemError(problemOf(&p))
		if p.RetryAfter > 0 {
			f.err = &retryAfterError{error: f.err, after: time.Duration(p.RetryAfter) * time.Second}
		}
		return nil
	case f.put != nil && answer.Kind == frame.KindSet:
		f.set, err = answer.Set()
		return err
	case f.put == nil && answer.Kind == frame.KindLarge:
		f.large = true
		return answer.Large()
	case f.put == nil && answer.Kind == frame.KindValue:
		if f.value, err = answer.Value(); err == nil {
			f.value.Value = append(make([]byte, 0, len(f.value.Value)), f.value.Value...)
		}
		return err
	}
	return fmt.Errorf("the answer is a %v frame: is this an oncekv node?", answer.Kind)
}

// try sends the call by a stream. It is not done when the call has to go alone.
func (f *framedCall) try(ctx context.Context, s *mux.Stream, patience time.Duration) (done, sent bool, err error) {
	f.call, f.err, f.large, f.alone = mux.Call{}, nil, false, false
	sent, err = s.Do(ctx, &f.call, f, patience)
	if err == mux.ErrRetired || err == nil && f.large {
		return false, false, nil
	}
	if err == nil {
		f.history, err = s.History, f.err
	} else if ended, ok := errors.AsType[*mux.EndedError](err); ok {
		err = &StatusError{Problem: problemOf(&ended.Problem), Kind: ErrUnavailable}
	}
	return true, sent, err
}
