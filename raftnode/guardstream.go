package raftnode

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"go.etcd.io/etcd/raft/v3/raftpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/rafthttp"
)

// rafthttp believes what a stream announces: it takes memory for any number of entries and
// bytes, and panics on its own goroutine if an entry cannot be decoded. So each message of
// a stream is read here first, and rafthttp sees only those that are whole and can be
// decoded.

// The kinds of messages in a stream of appends, as rafthttp's codec numbers them.
const (
	streamLinkHeartbeat = iota
	streamEntries
	streamMessage
)

const (
	streamReadBytes = 64 << 10
	// streamEntriesMax is how many entries a message of 1 MiB could have, if each
	// were empty.
	streamEntriesMax = 1 << 18
)

var errStream = errors.New("the stream carries what no member sends")

// guardStream lets through what rafthttp can decode of an answer that is a stream, and
// reports whether it is one.
func guardStream(req *http.Request, resp *http.Response) bool {
	if resp.StatusCode != http.StatusOK || !strings.HasPrefix(req.URL.Path, rafthttp.RaftStreamPrefix+"/") {
		return false
	}
	g := &streamGuard{Closer: resp.Body, from: bufio.NewReaderSize(resp.Body, streamReadBytes), next: (*streamGuard).message}
	if strings.HasPrefix(req.URL.Path, rafthttp.RaftStreamPrefix+"/msgapp/") {
		g.next = (*streamGuard).append
	}
	resp.Body = g
	return true
}

// streamGuard is the body of a stream. One goroutine reads it.
type streamGuard struct {
	io.Closer
	from  *bufio.Reader
	next  func(*streamGuard) error // fills ready with one message
	ready bytes.Buffer
	part  io.LimitedReader // what bytes reads; here it costs no memory
	entry raftpb.Entry     // what entries are decoded into, to see whether they can be
	err   error
}

// Read implements io.Reader.
func (g *streamGuard) Read(p []byte) (int, error) {
	if g.ready.Len() == 0 && g.err == nil {
		if g.ready.Reset(); g.ready.Cap() > 2<<20 {
			g.ready = bytes.Buffer{}
		}
		g.err = g.next(g)
	}
	if g.err != nil { // of a message that is not whole nothing is seen
		return 0, g.err
	}
	return g.ready.Read(p)
}

// message takes one message of the stream of all kinds but appends.
func (g *streamGuard) message() error {
	_, err := g.sized()
	return err
}

// append takes one message of the stream of appends.
func (g *streamGuard) append() error {
	kind, err := g.bytes(1)
	if err != nil {
		return err
	}
	switch kind[0] {
	case streamLinkHeartbeat:
		return nil
	case streamEntries:
		return g.entries()
	case streamMessage:
		return g.decode(&raftpb.Message{})
	}
	return fmt.Errorf("%w: a message of kind %d", errStream, kind[0])
}

// entries takes an append of which all but entries and commit index is known.
func (g *streamGuard) entries() error {
	count, err := g.number()
	if err != nil {
		return err
	}
	if count > streamEntriesMax {
		return fmt.Errorf("%w: a message of %d entries", errStream, count)
	}
	for range count {
		g.entry = raftpb.Entry{Data: g.entry.Data[:0]}
		if err := g.decode(&g.entry); err != nil {
			return err
		}
	}
	_, err = g.number() // the commit index
	return err
}

// decode takes something of an announced size that must be decodable.
func (g *streamGuard) decode(into interface{ Unmarshal([]byte) error }) error {
	raw, err := g.sized()
	if err != nil {
		return err
	}
	if err := into.Unmarshal(raw); err != nil {
		return fmt.Errorf("%w: %w", errStream, err)
	}
	return nil
}

func (g *streamGuard) sized() ([]byte, error) {
	size, err := g.number()
	if err != nil {
		return nil, err
	}
	return g.bytes(size)
}

func (g *streamGuard) number() (uint64, error) {
	raw, err := g.bytes(8)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint64(raw), nil
}

// bytes adds the next n bytes to the message, as they arrive, and returns them.
func (g *streamGuard) bytes(n uint64) ([]byte, error) {
	if n > uint64(peerMessageBytesMax-min(g.ready.Len(), peerMessageBytesMax)) {
		return nil, fmt.Errorf("%w: a message of %d bytes and more", errStream, n)
	}
	before := g.ready.Len()
	g.part = io.LimitedReader{R: g.from, N: int64(n)}
	switch _, err := g.ready.ReadFrom(&g.part); {
	case err != nil:
		return nil, err
	case g.part.N == 0:
		return g.ready.Bytes()[before:], nil
	case g.ready.Len() == 0:
		return nil, io.EOF
	}
	return nil, io.ErrUnexpectedEOF
}

// peerMessageBytesMax bounds a message in a pipeline's body. The largest that
// raft sends holds one full entry; rafthttp itself would take any size.
const peerMessageBytesMax = 8 << 20
