package raftnode

import (
	"fmt"
	"io"
	"net/http"
	"reflect"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"

	"github.com/Focinfi/oncekv/internal/nodehttp"
)

const (
	peerDial = 2 * time.Second
	// pipelineAnswer bounds how long a member may take to confirm a posted message. It only
	// queues the message, but 1 MiB takes nine seconds at 1 Mbit/s.
	pipelineAnswer = 10 * time.Second
	// pipelineIdle is how long a connection for posted messages is kept. Each
	// that is dead costs a message pipelineAnswer.
	pipelineIdle = 2 * time.Second
	// pipelineIdleMax is how many of them are kept to one member.
	pipelineIdleMax = 1024
	// refusalBytesMax bounds an answer that is no stream. rafthttp reads all of it.
	refusalBytesMax = 64 << 10
)

// peerClients carry rafthttp's requests in place of the clients that it makes.
//
// Those use the environment's proxy, and do not notice connections that died silently, as
// when a network was cut. rafthttp means to give a stream up when nothing was read for five
// seconds. But since etcd 3.5 it sets its dialer as Transport.Dial, next to a DialContext
// that net/http prefers. So a reader waits on a dead connection until TCP sends something
// again, about as long as the cut was. Posted messages have no time-out at all: four that
// hang are all that rafthttp sends at a time. The other end of a stream is the member that
// writes to it: see pacedWriter.
//
// rafthttp's fields are reached by name. Every start refuses a version without them.
type peerClients struct{ streams, pipelines *http.Transport }

func newPeerClients(t *rafthttp.Transport) (*peerClients, error) {
	c := &peerClients{
		streams: nodehttp.NewTransport(nodehttp.Options{
			DialTimeout: peerDial, StallTimeout: rafthttp.ConnReadTimeout, IdlePerHost: -1,
		}),
		pipelines: nodehttp.NewTransport(nodehttp.Options{
			DialTimeout: peerDial, AnswerTimeout: pipelineAnswer, IdleTimeout: pipelineIdle, IdlePerHost: pipelineIdleMax,
		}),
	}
	for field, carrier := range map[string]*http.Transport{"streamRt": c.streams, "pipelineRt": c.pipelines} {
		theirs, err := roundTripperOf(t, field)
		if err != nil {
			return nil, err
		}
		theirs.RegisterProtocol("http", answerLimiter{carrier})
	}
	return c, nil
}

// roundTripperOf returns what one of a transport's own fields holds.
func roundTripperOf(t *rafthttp.Transport, field string) (*http.Transport, error) {
	v := reflect.ValueOf(t).Elem().FieldByName(field)
	if !v.IsValid() || v.Kind() != reflect.Interface || v.IsNil() || v.Elem().Type() != reflect.TypeFor[*http.Transport]() {
		return nil, fmt.Errorf("this version of rafthttp has no http.Transport in %s, so its clients cannot be replaced", field)
	}
	return (*http.Transport)(v.Elem().UnsafePointer()), nil
}

func (c *peerClients) close() {
	c.streams.CloseIdleConnections()
	c.pipelines.CloseIdleConnections()
}

// answerLimiter puts a guard before what is a stream, and bounds what is none in
// size and time.
type answerLimiter struct{ carrier *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b answerLimiter) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.carrier.RoundTrip(req)
	if err != nil || guardStream(req, resp) {
		return resp, err
	}
	body := resp.Body
	resp.Body = &limitedBody{
		Reader: io.LimitReader(body, refusalBytesMax), body: body,
		late: time.AfterFunc(pipelineAnswer, func() { _ = body.Close() }),
	}
	return resp, nil
}

// limitedBody is a body that ends, one way or another.
type limitedBody struct {
	io.Reader
	body io.Closer
	late *time.Timer
}

// Close implements io.Closer.
func (b *limitedBody) Close() error {
	b.late.Stop()
	return b.body.Close()
}
