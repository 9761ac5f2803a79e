package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/budget"
	"github.com/Focinfi/oncekv/internal/frame"
)

// goneWriter is for a client that takes the head of an answer and is gone then.
type goneWriter struct{ *httptest.ResponseRecorder }

func (goneWriter) Write([]byte) (int, error) { return 0, errors.New("the client is gone") }

// TestSession_ClientGone: a session whose client takes no answer is broken off, and
// nothing of it is left, whatever reading is at.
func TestSession_ClientGone(t *testing.T) {
	n := newBatchNode(t)
	for path, body := range map[string]string{"/keys": doc("a", "v"), "/keys/get": `{"key":"a"}` + "\n"} {
		for _, lines := range []int{1, 3, 30_000} {
			over := make(chan any, 1)
			go func() {
				defer func() { over <- recover() }()
				r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(strings.Repeat(body, lines)))
				r.Header.Set("Content-Type", api.ContentTypeNDJSON)
				n.handler.ServeHTTP(goneWriter{httptest.NewRecorder()}, r)
			}()
			select {
			case cause := <-over:
				if cause != http.ErrAbortHandler {
					t.Errorf("%s, %d lines: it ends with %v", path, lines, cause)
				}
			case <-time.After(patience):
				t.Fatalf("%s, %d lines: the session is left", path, lines)
			}
		}
	}
}

// lateGets answers when it is told to.
type lateGets struct {
	answers getAnswers
	begun   chan []frame.Get
}

func (g *lateGets) begin(gets []frame.Get) { g.begun <- slices.Clone(gets) }

// TestSession_AnswersAfterTheClientHasGone: look-ups that a client has not waited for may
// still end, and harm nobody.
func TestSession_AnswersAfterTheClientHasGone(t *testing.T) {
	s := &session{sessions: &sessions{counters: &Counters{}, logger: quiet()}, out: newSpool("", 0), room: make(chan struct{}, 1),
		place: budget.New(1).Hold("", 0, nil)}
	ctx, cancel := context.WithCancelCause(context.Background())
	s.alive, s.proposing, s.accepting, s.stopAccepting, s.lose = ctx, ctx, ctx, func(error) {}, cancel
	s.duplex = newDuplex(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", nil), time.Second)
	c := &getLines{lineCodec: lineCodec{session: s}, memory: budget.New(getLinesBytes)}
	c.lines = lineReader{src: strings.NewReader(`{"key":"a"}` + "\n" + `{"key":"b"}` + "\n"), max: getLineBytesMax}
	from := &lateGets{getAnswers{s, c.add}, make(chan []frame.Get, 1)}
	c.from, s.codec = from, c
	over := make(chan struct{})
	go func() { defer close(over); s.read() }()
	gets := <-from.begun
	cancel(errors.New("the client is gone"))
	<-over
	from.answers.fail(gets, context.Canceled)
}
