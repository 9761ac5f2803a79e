package forward

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestTryBody_RetiredBodyIsNotRead(t *testing.T) {
	source := &sourceBody{ReadCloser: io.NopCloser(strings.NewReader("0123456789"))}
	first := &tryBody{source: source}
	if !first.retire() {
		t.Error("an untouched body counts as touched")
	}
	if n, err := first.Read(make([]byte, 1)); n != 0 || !errors.Is(err, errRetired) {
		t.Errorf("a retired body reads %d, %v", n, err)
	}
	second := &tryBody{source: source}
	if got, err := io.ReadAll(second); string(got) != "0123456789" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if second.retire() {
		t.Error("a touched body counts as untouched")
	}
}

// A put is safe to repeat; a change of the members may not be.
func TestForward_UnknownOutcomeSaysWhatToDo(t *testing.T) {
	for path, want := range map[string]string{"/key/a": "repeat the same put", "/keys": "repeat the same put", "/members/n1": "GET /members", "/leader": "GET /members"} {
		cut := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
		t.Cleanup(cut.Close)
		h := New(Config{Databases: func() []string { return []string{cut.URL} }})
		t.Cleanup(h.Close)
		answer := httptest.NewRecorder()
		h.ServeHTTP(answer, httptest.NewRequest(http.MethodPost, path, strings.NewReader("{}")))
		if answer.Code != http.StatusGatewayTimeout || !strings.Contains(answer.Body.String(), want) {
			t.Errorf("%s: %d %s", path, answer.Code, answer.Body)
		}
	}
}
