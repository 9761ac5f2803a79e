package raftnode

import (
	"fmt"
	"net/http"
	"reflect"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

const (
	// pipelineAnswer bounds how long a member may take to confirm a message that
	// was posted to it. It only queues the message, but 1 MiB takes nine seconds
	// at 1 Mbit/s.
	pipelineAnswer = 10 * time.Second
	// pipelineIdle is how long a connection for posted messages is kept. Each
	// that is dead costs a message pipelineAnswer.
	pipelineIdle = 2 * time.Second
)

// withTimeouts makes a started transport notice connections that are dead
// without a word, as after a network was cut and healed.
//
// rafthttp means to give a stream up when nothing was read for five seconds
// (heartbeats of the link come more often), and sets a dialer whose connections
// do that. But since etcd 3.5 it sets it as Transport.Dial, next to a
// DialContext that net/http prefers. So a reader waits on a dead connection
// until TCP sends something again, which takes about as long as the cut was; the
// more so when its own side has nothing to send. Without the DialContext the
// dialer that was meant is used.
//
// The other end of a stream is the member that writes to it: see pacedWriter.
// Posted messages have no time-out at all in rafthttp: four that hang are all
// that it sends at a time.
//
// The fields are rafthttp's own and are reached by name. A version without them
// is refused here, at every start, and not found out by the next outage.
func withTimeouts(t *rafthttp.Transport) error {
	streams, err := roundTripperOf(t, "streamRt")
	if err != nil {
		return err
	}
	streams.DialContext = nil
	pipelines, err := roundTripperOf(t, "pipelineRt")
	if err != nil {
		return err
	}
	pipelines.ResponseHeaderTimeout = pipelineAnswer
	pipelines.IdleConnTimeout = pipelineIdle
	return nil
}

// roundTripperOf returns what one of a transport's own fields holds.
func roundTripperOf(t *rafthttp.Transport, field string) (*http.Transport, error) {
	v := reflect.ValueOf(t).Elem().FieldByName(field)
	if !v.IsValid() || v.Kind() != reflect.Interface || v.IsNil() || v.Elem().Type() != reflect.TypeFor[*http.Transport]() {
		return nil, fmt.Errorf("this version of rafthttp has no http.Transport in %s, so its time-outs cannot be set right", field)
	}
	return (*http.Transport)(v.Elem().UnsafePointer()), nil
}
