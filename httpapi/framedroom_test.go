package httpapi

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/frame"
)

// heldCodec begins what it took when it is flushed.
type heldCodec struct {
	frameCodec
	taken, flushed chan struct{}
}

func (c *heldCodec) next() error {
	_, err := c.fetch()
	if err == nil {
		c.taken <- struct{}{}
	}
	return err
}

func (c *heldCodec) flush() error { wake(c.flushed); return nil }

// Who waits for the client holds nothing that others wait for.
func TestFramed_FlushesBeforeWaitingForTheClient(t *testing.T) {
	var in []byte
	for id := range uint32(3) {
		in = frame.AppendPut(in, &frame.Put{ID: id + 1, Key: "k", Value: []byte("v")})
	}
	s := &session{sessions: &sessions{}, out: newSpool("", 0), room: make(chan struct{}, 1), place: budget.New(1).Hold("", 0, nil)}
	w := &heldCodec{frameCodec{s, frame.NewReader(bytes.NewReader(in))}, make(chan struct{}, 10), make(chan struct{}, 1)}
	s.codec = w
	ctx, cancel := context.WithCancelCause(context.Background())
	s.alive, s.accepting, s.stopAccepting, s.lose = ctx, ctx, func(error) {}, cancel
	s.out.tail = make([]byte, framedOutBytes) // the client reads nothing
	over := make(chan struct{})
	go func() { defer close(over); s.read() }()
	defer func() {
		_, _, _ = s.out.take(nil)
		wake(s.room)
		<-over
		cancel(context.Canceled)
	}()
	<-w.taken
	select {
	case <-w.flushed:
	case <-time.After(2 * time.Second):
		t.Error("a put was taken and not begun while its reader waits for the client")
	}
}
