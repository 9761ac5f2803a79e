package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"
)

// rawConn is one HTTP/1.1 connection that is kept alive. It does as little as it can, because
// its cost comes off the server that it measures: it looks for the status and the length and
// skips the rest. It is for one goroutine.
type rawConn struct {
	conn net.Conn
	from *bufio.Reader
	out  []byte
}

func dialRaw(addr string) (*rawConn, error) {
	conn, err := net.DialTimeout("tcp", addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	return &rawConn{conn: conn, from: bufio.NewReaderSize(conn, 4096)}, nil
}

func (c *rawConn) close() { _ = c.conn.Close() } // the end of the load

// limit ends everything on the connection at the context's deadline.
func (c *rawConn) limit(ctx context.Context) {
	if at, ok := ctx.Deadline(); ok {
		_ = c.conn.SetDeadline(at) // fails on a closed connection only, as will the next write
	}
}

// do sends a request, with a body unless that is nil, and returns the status.
func (c *rawConn) do(method, path string, body []byte) (status int, err error) {
	b := append(c.out[:0], method...)
	b = append(append(append(b, ' '), path...), " HTTP/1.1\r\nHost: localhost\r\n"...)
	if body != nil {
		b = append(strconv.AppendInt(append(b, "Content-Length: "...), int64(len(body)), 10), '\r', '\n')
	}
	b = append(append(b, '\r', '\n'), body...)
	c.out = b
	if _, err := c.conn.Write(b); err != nil {
		return 0, err
	}
	return c.answer()
}

var errNotHTTP = errors.New("the answer is not HTTP/1.1")

// answer reads a whole answer and returns its status.
func (c *rawConn) answer() (status int, err error) {
	status, length, err := c.head()
	if err != nil {
		return 0, err
	}
	if length < 0 {
		return 0, fmt.Errorf("status %d without a length", status)
	}
	_, err = c.from.Discard(length)
	return status, err
}

// head reads an answer up to its body, whose length is -1 if none is given.
func (c *rawConn) head() (status, length int, err error) {
	line, err := c.from.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, 0, errNotHTTP
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, errNotHTTP
	}
	length = -1
	for {
		line, err := c.from.ReadSlice('\n')
		if err != nil {
			return 0, 0, err
		}
		if len(line) <= 2 {
			return status, length, nil
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return 0, 0, errNotHTTP
			}
		}
	}
}
