package wire

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Focinfi/oncekv/api"
	"github.com/Focinfi/oncekv/internal/load"
)

// Caller is a load.Caller over one connection, which it opens on demand. It belongs to one
// goroutine.
type Caller struct {
	address string // host:port
	host    string // as the Host header has it
	path    string // path prefix of the API
	secure  bool
	timeout time.Duration

	conn   net.Conn // nil for none
	cancel func() bool
	in     *bufio.Reader
	out    []byte // the request
	body   []byte // the value that was read
}

// New returns a caller of the node at endpoint. It sends nothing yet.
func New(endpoint string, timeout time.Duration) (*Caller, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("endpoint %q must look like http://127.0.0.1:11000", endpoint)
	}
	c := &Caller{host: u.Host, path: strings.TrimRight(u.EscapedPath(), "/"), secure: u.Scheme == "https", timeout: timeout}
	port := u.Port()
	if port == "" {
		port = u.Scheme // net knows both names
	}
	c.address = net.JoinHostPort(u.Hostname(), port)
	c.in = bufio.NewReaderSize(nil, 16<<10)
	return c, nil
}

// Close closes the connection.
func (c *Caller) Close() error {
	if c.conn == nil {
		return nil
	}
	c.cancel()
	err := c.conn.Close()
	c.conn = nil
	return err
}

// Call sends r once.
func (c *Caller) Call(ctx context.Context, r *load.Request, t *load.Tally) error {
	deadline := time.Now().Add(c.timeout)
	if err := c.connect(ctx, deadline); err != nil {
		return failure(err)
	}
	c.conn.SetDeadline(deadline)
	c.encode(r)
	var keep bool
	var err error
	if r.Kind == load.Batch {
		keep, err = c.batch(len(r.Items), t)
	} else if _, err = c.conn.Write(c.out); err == nil {
		keep, err = c.single(r, t)
	}
	if !keep {
		c.Close()
	}
	if err != nil {
		return failure(err)
	}
	return nil
}

// connect opens the connection if there is none. It is closed when ctx ends.
func (c *Caller) connect(ctx context.Context, deadline time.Time) error {
	if c.conn != nil {
		return nil
	}
	ctxDial, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var conn net.Conn
	var err error
	if c.secure {
		conn, err = (&tls.Dialer{}).DialContext(ctxDial, "tcp", c.address)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctxDial, "tcp", c.address)
	}
	if err != nil {
		return err
	}
	c.conn = conn
	c.cancel = context.AfterFunc(ctx, func() { conn.Close() })
	c.in.Reset(conn)
	return nil
}

// encode encodes the request.
func (c *Caller) encode(r *load.Request) {
	c.out = c.out[:0]
	switch r.Kind {
	case load.Put:
		c.head("PUT ", r.Key)
		c.out = append(c.out, "Content-Type: application/octet-stream\r\nContent-Length: "...)
		c.out = strconv.AppendInt(c.out, int64(len(r.Value)), 10)
		c.out = append(c.out, "\r\n\r\n"...)
		c.out = append(c.out, r.Value...)
	case load.Batch:
		c.body = c.body[:0]
		for _, item := range r.Items {
			c.body = appendLine(c.body, item)
		}
		c.out = append(c.out, "POST "...)
		c.out = append(c.out, c.path...)
		c.out = append(c.out, "/keys HTTP/1.1\r\nHost: "...)
		c.out = append(c.out, c.host...)
		c.out = append(c.out, "\r\nContent-Type: "+api.ContentTypeNDJSON+"\r\nContent-Length: "...)
		c.out = strconv.AppendInt(c.out, int64(len(c.body)), 10)
		c.out = append(c.out, "\r\n\r\n"...)
		c.out = append(c.out, c.body...)
	default:
		c.head("GET ", r.Key)
		c.out = append(c.out, "\r\n"...)
	}
}

func (c *Caller) head(method, key string) {
	c.out = append(c.out, method...)
	c.out = append(c.out, c.path...)
	if plain(key) {
		c.out = append(c.out, "/key/"...)
		c.out = append(c.out, key...)
	} else {
		c.out = append(c.out, api.KeyTarget(key, nil)...)
	}
	c.out = append(c.out, " HTTP/1.1\r\nHost: "...)
	c.out = append(c.out, c.host...)
	c.out = append(c.out, "\r\n"...)
}

// plain reports whether a key is the same in a path and in JSON: KeyTarget would return it
// unchanged, in ten times the time.
func plain(key string) bool {
	last := byte('/')
	for i := range len(key) {
		b := key[i]
		switch {
		case 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' || b == '-' || b == '_' || b == '~':
		case (b == '/' || b == '.') && last != '/':
		default:
			return false
		}
		last = b
	}
	return last != '/'
}

// appendLine appends a line of POST /keys.
func appendLine(to []byte, item load.Item) []byte {
	to = append(to, `{"key":`...)
	if plain(item.Key) {
		to = append(append(append(to, '"'), item.Key...), '"')
	} else {
		key, _ := json.Marshal(item.Key)
		to = append(to, key...)
	}
	to = append(to, `,"value":"`...)
	to = append(to, item.Value...) // letters and digits: see load.Data
	return append(to, "\"}\n"...)
}

// answer is the head of an answer.
type answer struct {
	status int
	length int64 // -1: until the end of the chunks, or of the connection
	chunks bool
	keep   bool // the connection
}

// readHead skips 1xx answers.
func (c *Caller) readHead() (answer, error) {
	for {
		a, err := c.readOneHead()
		if err != nil || a.status >= 200 {
			return a, err
		}
	}
}

func (c *Caller) readOneHead() (answer, error) {
	a := answer{length: -1, keep: true}
	line, err := c.line()
	if err != nil {
		return a, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return a, fmt.Errorf("an answer that is not HTTP/1: %q", line)
	}
	if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return a, fmt.Errorf("an answer without a status: %q", line)
	}
	for {
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return a, err
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if a.length, err = strconv.ParseInt(string(value), 10, 64); err != nil || a.length < 0 {
				return a, fmt.Errorf("an answer of the length %q", value)
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			a.chunks = bytes.EqualFold(value, []byte("chunked"))
		case bytes.EqualFold(name, []byte("Connection")):
			a.keep = !bytes.EqualFold(value, []byte("close"))
		}
	}
}

// line returns the next line of a head, valid until the next read.
func (c *Caller) line() ([]byte, error) {
	line, err := c.in.ReadSlice('\n')
	if err == io.EOF && len(line) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return bytes.TrimRight(line, "\r\n"), err
}

// bodyOf returns the rest of an answer.
func (c *Caller) bodyOf(a answer) io.Reader {
	switch {
	case a.status == http.StatusNoContent:
		return http.NoBody
	case a.chunks:
		return &chunked{Reader: httputil.NewChunkedReader(c.in), in: c.in}
	case a.length >= 0:
		return io.LimitReader(c.in, a.length)
	}
	return c.in
}

// chunked reads a chunked body, including the line after the last chunk.
type chunked struct {
	io.Reader
	in   *bufio.Reader
	over bool
}

func (c *chunked) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	for err == io.EOF && !c.over { // trailers, and an empty line
		line, lineErr := c.in.ReadSlice('\n')
		if lineErr != nil {
			return n, lineErr
		}
		c.over = len(bytes.TrimRight(line, "\r\n")) == 0
	}
	return n, err
}

// bodyMax bounds an answer.
const bodyMax = 1 << 30

// readBody reads all of the body and reports whether the connection can be kept.
func (c *Caller) readBody(a answer) (keep bool, err error) {
	if !a.chunks && a.length >= 0 && a.length <= bodyMax { // the usual case, without more objects
		c.body = grow(c.body, int(a.length))
		_, err := io.ReadFull(c.in, c.body)
		return a.keep && err == nil, err
	}
	var all bytes.Buffer
	n, err := all.ReadFrom(io.LimitReader(c.bodyOf(a), bodyMax))
	c.body = all.Bytes()
	return a.keep && a.chunks && err == nil && n < bodyMax, err
}

func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}

// single reads the answer to one key.
func (c *Caller) single(r *load.Request, t *load.Tally) (keep bool, err error) {
	a, err := c.readHead()
	if err != nil {
		return false, err
	}
	if keep, err = c.readBody(a); err != nil {
		return false, err
	}
	reads := r.Kind != load.Put
	switch {
	case reads && a.status == http.StatusOK:
		t[load.Found]++
		if r.Kind == load.Get && !bytes.Equal(c.body, r.Value) {
			return keep, load.ErrWrongValue
		}
	case r.Kind == load.Absent && a.status == http.StatusNotFound:
		t[load.NotFound]++
	case !reads && a.status == http.StatusCreated:
		t[load.Created]++
	case !reads && a.status == http.StatusOK:
		t[load.Unchanged]++
	case !reads && a.status == http.StatusConflict:
		t[load.Conflict]++
	default:
		return keep, c.refusal(a)
	}
	return keep, nil
}

// refusal returns the failure for an answer that was read.
func (c *Caller) refusal(a answer) error {
	var problem api.Problem
	detail := http.StatusText(a.status)
	if json.Unmarshal(c.body, &problem) == nil && problem.Detail != "" {
		detail = problem.Detail
	}
	return &load.Failure{Kind: fmt.Sprintf("HTTP %d", a.status), Err: fmt.Errorf("%s answered %d: %s", c.host, a.status, detail)}
}

// batch sends a stream of lines and reads their results, both at the same time: a node may
// answer while it reads.
func (c *Caller) batch(items int, t *load.Tally) (keep bool, err error) {
	conn, out := c.conn, c.out
	wrote := make(chan error, 1)
	go func() {
		_, err := conn.Write(out)
		wrote <- err
	}()
	keep, err = c.results(items, t)
	if err != nil {
		conn.Close() // the writer may be waiting for a node that has given up
	}
	if writeErr := <-wrote; err == nil && writeErr != nil {
		keep, err = false, writeErr
	}
	return keep && err == nil, err
}

func (c *Caller) results(items int, t *load.Tally) (keep bool, err error) {
	a, err := c.readHead()
	if err != nil {
		return false, err
	}
	if a.status != http.StatusOK {
		if _, err := c.readBody(a); err != nil {
			return false, err
		}
		return false, c.refusal(a)
	}
	var failed error
	lines := bufio.NewReaderSize(c.bodyOf(a), 16<<10)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			if items > 0 && failed == nil {
				failed = fmt.Errorf("the stream ended %d results early", items)
			}
			return a.keep && (a.chunks || a.length >= 0), failed
		}
		if err != nil {
			return false, err
		}
		items--
		if err := count(line, t); err != nil && failed == nil {
			failed = err
		}
	}
}

// statuses are the texts in the lines of decided keys.
var statuses = []struct {
	text    []byte
	outcome load.Outcome
}{
	{[]byte(`"status":"` + api.BatchCreated + `"`), load.Created},
	{[]byte(`"status":"` + api.BatchUnchanged + `"`), load.Unchanged},
	{[]byte(`"status":"` + api.BatchConflict + `"`), load.Conflict},
}

// count counts one result. A quote inside a key has a backslash, so no key can contain the
// text of a status.
func count(line []byte, t *load.Tally) error {
	for _, s := range statuses {
		if bytes.Contains(line, s.text) {
			t[s.outcome]++
			return nil
		}
	}
	var r api.BatchResult
	if err := json.Unmarshal(line, &r); err != nil {
		return fmt.Errorf("a result that is not JSON: %w", err)
	}
	return &load.Failure{Kind: "batch " + r.Status, Err: fmt.Errorf("the node answered %q for a line: %s", r.Status, r.Detail)}
}

// failure returns the kind of an error.
func failure(err error) error {
	var known *load.Failure
	var timeout net.Error
	kind := "connection lost"
	var op *net.OpError
	switch {
	case errors.As(err, &known):
		return err
	case errors.As(err, &timeout) && timeout.Timeout():
		kind = "timeout"
	case errors.As(err, &op) && op.Op == "dial":
		kind = "no connection"
	case err == io.EOF:
		err = errors.New("the node closed the connection before it answered")
	}
	return &load.Failure{Kind: kind, Err: err}
}
