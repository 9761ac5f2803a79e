package httpapi

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Focinfi/oncekv/api"
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
