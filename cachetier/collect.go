package cachetier

import (
	"context"
	"io"
	"sync"

	"github.com/Focinfi/oncekv/kvstore"
)

// collector makes large values held. One that fits an eighth of the memory is
// held from when a reader has read it to its end, and so verified it, for the
// first time: its bytes are put together on their way to that reader. All of
// those on their way take no more than another eighth of the memory.
type collector struct {
	limit int64 // bytes on their way, and of one value

	mu    sync.Mutex
	keys  map[kvstore.Key]bool // on their way: one reader each
	bytes int64
}

// begin reports whether a value's bytes may be put together, which end undoes.
func (c *collector) begin(meta *kvstore.Meta) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.keys[meta.Key] || c.bytes+meta.Size > c.limit {
		return false
	}
	if c.keys == nil {
		c.keys = make(map[kvstore.Key]bool)
	}
	c.keys[meta.Key] = true
	c.bytes += meta.Size
	return true
}

func (c *collector) end(meta *kvstore.Meta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, meta.Key)
	c.bytes -= meta.Size
}

// collectingReader is a streamReader that keeps what it reads from offset 0 to
// the end. Any other way of reading ends the keeping. It belongs to one
// goroutine.
type collectingReader struct {
	*streamReader
	node *Node
	era  *era
	rec  *record
	body []byte // so far; nil when nothing is kept
}

// open returns a reader of a value that is not held with its bytes.
func (n *Node) open(ctx context.Context, e *era, rec *record) io.ReadSeekCloser {
	from := newStreamReader(ctx, n.fetcher, e.history, rec, n.cfg.StreamIdle)
	if rec.value.Size > n.collecting.limit {
		return from
	}
	return &collectingReader{streamReader: from, node: n, era: e, rec: rec}
}

// Read implements io.Reader.
func (r *collectingReader) Read(p []byte) (int, error) {
	meta := &r.rec.value.Meta
	if r.pos == 0 && r.body == nil && len(p) > 0 && r.node.collecting.begin(meta) {
		r.body = make([]byte, 0, meta.Size)
	}
	n, err := r.streamReader.Read(p)
	if r.body == nil {
		return n, err
	}
	r.body = append(r.body, p[:n]...)
	switch {
	case int64(len(r.body)) == meta.Size: // and its digest was compared
		_, mirrored := r.node.memory.Get(string(meta.Key))
		r.node.memory.Add(&record{value: kvstore.NewValue(*meta, r.body), raw: r.rec.raw, streamed: true}, mirrored, r.era.generation)
		r.forget()
	case err != nil:
		r.forget()
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *collectingReader) Seek(offset int64, whence int) (int64, error) {
	at, err := r.streamReader.Seek(offset, whence)
	if r.body != nil && at != int64(len(r.body)) {
		r.forget()
	}
	return at, err
}

// Close ends the reading.
func (r *collectingReader) Close() error {
	r.forget()
	return r.streamReader.Close()
}

// forget ends the keeping.
func (r *collectingReader) forget() {
	if r.body != nil {
		r.body = nil
		r.node.collecting.end(&r.rec.value.Meta)
	}
}
