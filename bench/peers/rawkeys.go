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

	"github.com/Focinfi/oncekv/client"
)

// pieceBytes is how much of a stream is sent at once.
const pieceBytes = 32 << 10

// postKeys puts the keys from one number to before another with one POST /keys: lines
// go out while results come in. It returns how many of them are set, with an error too.
// All must be new, but those that are put again may have been set before.
func (c *rawConn) postKeys(ctx context.Context, s session, from, to uint32, again bool, acknowledged func(n int)) (set uint32, err error) {
	stop := context.AfterFunc(ctx, c.close)
	defer stop()
	wrote := make(chan error, 1)
	go func() { wrote <- c.writeLines(s, from, to) }()
	set, err = c.readResults(to-from, again, acknowledged)
	if err != nil {
		c.close() // the writer may wait for a node that has given up
	}
	return set, errors.Join(context.Cause(ctx), err, <-wrote)
}

func (c *rawConn) writeLines(s session, from, to uint32) error {
	head := "POST /keys HTTP/1.1\r\nHost: localhost\r\nContent-Type: " + client.ContentTypeNDJSON + "\r\nTransfer-Encoding: chunked\r\n\r\n"
	out, piece := []byte(head), make([]byte, 0, pieceBytes)
	for n := from; n < to; n++ {
		piece = append(append(piece, `{"key":"`...), s.key(0, n)...)
		piece = append(append(append(piece, `","value":"`...), s.value...), "\"}\n"...)
		if len(piece)+len(`{"key":"","value":""}`)+keyBytes+len(s.value) < pieceBytes && n < to-1 {
			continue
		}
		out = append(strconv.AppendInt(out, int64(len(piece)), 16), '\r', '\n')
		out = append(append(out, piece...), '\r', '\n')
		if _, err := c.conn.Write(out); err != nil {
			return err
		}
		out, piece = out[:0], piece[:0]
	}
	_, err := c.conn.Write(append(out, "0\r\n\r\n"...))
	return err
}

// What the results of keys that are set have in them.
var (
	created   = []byte(`"status":"` + client.BatchCreated + `"`)
	unchanged = []byte(`"status":"` + client.BatchUnchanged + `"`)
)

func (c *rawConn) readResults(keys uint32, again bool, acknowledged func(n int)) (set uint32, err error) {
	status, length, err := c.head()
	if err != nil {
		return 0, err
	}
	if status != http.StatusOK || length >= 0 {
		return 0, fmt.Errorf("POST /keys was answered with status %d", status)
	}
	const atOnce = 64
	defer func() { acknowledged(int(set % atOnce)) }()
	lines := bufio.NewReaderSize(httputil.NewChunkedReader(c.from), pieceBytes)
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && set == keys {
			return set, nil
		}
		if err != nil {
			return set, fmt.Errorf("behind %d of %d results: %w", set, keys, err)
		}
		if !bytes.Contains(line, created) && !(again && bytes.Contains(line, unchanged)) {
			return set, fmt.Errorf("behind %d of %d results: %s", set, keys, line)
		}
		if set++; set%atOnce == 0 {
			acknowledged(atOnce)
		}
	}
}
