package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/Focinfi/oncekv/api"
)

// pieceBytes is how much of a stream is sent at once.
const pieceBytes = 32 << 10

// acknowledgedAtOnce is how many keys a stream reports at a time, if nobody asks for each of
// them.
const acknowledgedAtOnce = 64

// stream is a range of keys, put with one POST /keys.
type stream struct {
	session
	from, to     uint32
	again        bool // an earlier stream may have set some
	acknowledged func(n int)
	atOnce       int   // keys in each call of acknowledged, except the last
	pace         *pace // nil: as fast as the node takes them
}

// pace says when keys are due: so many a second from the start, whatever happens to them.
type pace struct {
	start  time.Time
	second float64 // keys in it
}

// paceStep is how long a due key may wait to travel with others.
const paceStep = time.Millisecond

// due returns when the n-th key is due, counted from 0.
func (p *pace) due(n uint32) time.Time {
	return p.start.Add(time.Duration(float64(n) / p.second * float64(time.Second)))
}

// postKeys puts the keys of a stream: lines go out while results come in. It returns how many
// are set, even with an error. All must be new, unless they are put again.
func (c *rawConn) postKeys(ctx context.Context, s stream) (set uint32, err error) {
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	writing, cancel := context.WithCancel(ctx)
	defer cancel()
	wrote := make(chan error, 1)
	go func() { wrote <- c.writeLines(writing, s) }()
	set, err = c.readResults(s)
	if err != nil {
		c.close() // the writer may wait for a node that has given up,
		cancel()  // or until a key is due
	}
	return set, errors.Join(context.Cause(ctx), err, <-wrote)
}

func (c *rawConn) writeLines(ctx context.Context, s stream) error {
	head := "POST /keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + api.ContentTypeNDJSON + "\r\nTransfer-Encoding: chunked\r\n\r\n"
	out, piece := []byte(head), make([]byte, 0, pieceBytes)
	for n := s.from; n < s.to; n++ {
		piece = append(append(piece, `{"key":"`...), s.key(0, n)...)
		piece = append(append(append(piece, `","value":"`...), s.value...), "\"}\n"...)
		fits := len(piece)+len(`{"key":"","value":""}`)+keyBytes+len(s.value) < pieceBytes
		if fits && n < s.to-1 && (s.pace == nil || !s.pace.due(n+1-s.from).After(time.Now())) {
			continue
		}
		out = append(strconv.AppendInt(out, int64(len(piece)), 16), '\r', '\n')
		out = append(append(out, piece...), '\r', '\n')
		if _, err := c.conn.Write(out); err != nil {
			return err
		}
		out, piece = out[:0], piece[:0]
		if s.pace == nil || n == s.to-1 {
			continue
		}
		if wait := time.Until(s.pace.due(n + 1 - s.from)); wait > 0 {
			if err := pass(ctx, max(wait, paceStep)); err != nil {
				return err
			}
		}
	}
	_, err := c.conn.Write(append(out, "0\r\n\r\n"...))
	return err
}

// The texts in the results of keys that are set.
var (
	created   = []byte(`"status":"` + api.BatchCreated + `"`)
	unchanged = []byte(`"status":"` + api.BatchUnchanged + `"`)
)

// readResults reads the results, which come in the order of the lines.
func (c *rawConn) readResults(s stream) (set uint32, err error) {
	status, length, err := c.head()
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK || length >= 0 {
		return 0, fmt.Errorf("POST /keys was answered with status %d", status)
	}
	keys, atOnce := s.to-s.from, uint32(s.atOnce)
	defer func() {
		if rest := set % atOnce; rest > 0 {
			s.acknowledged(int(rest))
		}
	}()
	lines := bufio.NewReaderSize(httputil.NewChunkedReader(c.from), pieceBytes)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && set == keys {
			return set, nil
		}
		if err != nil {
			return set, fmt.Errorf("behind %d of %d results: %w", set, keys, err)
		}
		if !bytes.Contains(line, created) && !(s.again && bytes.Contains(line, unchanged)) {
			return set, fmt.Errorf("behind %d of %d results: %s", set, keys, line)
		}
		if set++; set%atOnce == 0 {
			s.acknowledged(s.atOnce)
		}
	}
}
