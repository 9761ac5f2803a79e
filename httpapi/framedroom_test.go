package httpapi

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/internal/frame"
)

type heldWork struct{ taken, flushed chan struct{} }

func (w *heldWork) take(*frame.Frame) error { w.taken <- struct{}{}; return nil }
func (w *heldWork) flush() {
	select {
	case w.flushed <- struct{}{}:
	default:
	}
}
func (w *heldWork) run() {}

// Who waits for the client holds nothing that others wait for.
func TestFramed_FlushesBeforeWaitingForTheClient(t *testing.T) {
	var in []byte
	for id := range uint32(3) {
		in = frame.AppendPut(in, &frame.Put{ID: id + 1, Key: "k", Value: []byte("v")})
	}
	w := &heldWork{make(chan struct{}, 10), make(chan struct{}, 1)}
	s := &framedStream{frames: frame.NewReader(bytes.NewReader(in)), work: w, room: make(chan struct{}, 1), ready: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.alive, s.accepting, s.stopAccepting, s.lose = ctx, ctx, func(error) {}, cancel
	s.out = make([]byte, framedOutBytes) // the client reads nothing
	over := make(chan struct{})
	go func() { defer close(over); s.read() }()
	defer func() {
		s.mu.Lock()
		s.out = nil
		s.mu.Unlock()
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
