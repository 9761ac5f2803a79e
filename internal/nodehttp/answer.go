package nodehttp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// StatusError is an answer with another status than 200.
type StatusError struct{ Status int }

// Error says the status, in this side's own words.
func (e *StatusError) Error() string {
	text := fmt.Sprintf("answers with HTTP status %d %s", e.Status, http.StatusText(e.Status))
	if e.Status == http.StatusMisdirectedRequest {
		text += ": the node does not answer to the name in this URL; use a name that it advertises, or add this one to its --allowed-hosts"
	}
	return text
}

// ErrAnswer is an answer that is not the JSON that was expected.
var ErrAnswer = errors.New("gives an answer that no oncekv node gives")

// GetJSON asks for a URL and decodes the answer, of at most limit bytes. It returns a
// *StatusError for any status but 200, and ErrAnswer for what it cannot decode.
func GetJSON(ctx context.Context, c *http.Client, url string, limit int64, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return &StatusError{resp.StatusCode}
	}
	return DecodeJSON(resp.Body, limit, into)
}

// DecodeJSON reads one JSON document of at most limit bytes. An error is the body's, or
// ErrAnswer.
func DecodeJSON(body io.Reader, limit int64, into any) error {
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	switch {
	case err != nil:
		return err
	case int64(len(data)) > limit:
		return fmt.Errorf("%w: more than %d bytes", ErrAnswer, limit)
	}
	if json.Unmarshal(data, into) != nil {
		return ErrAnswer // without the decoder's text, which quotes the answer
	}
	return nil
}

// Reason says in a few words why a node did not answer. The words are the same for the same
// cause, whatever the ports of the connection were.
func Reason(err error) string {
	var name *net.DNSError
	var timeout net.Error
	var status *StatusError
	var number syscall.Errno
	var op *net.OpError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, ErrAnswer):
		return err.Error()
	case errors.As(err, &name) && name.IsNotFound:
		return "no such host"
	case errors.As(err, &name):
		return "the name cannot be looked up"
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &number):
		return number.Error()
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it closes the connection without an answer"
	case errors.As(err, &op):
		return op.Err.Error()
	}
	return "it does not answer as a node does"
}
