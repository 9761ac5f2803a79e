package cachetier

import (
	"sync"

	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// collector bounds what is collected of large values. One that fits an eighth of the memory
// is held once a reader has read it to its end, and so verified it: its bytes are put
// together on their way to that reader. Other readers of the same value read it from the
// database at the same time, each for itself. All that is on its way takes no more than
// another eighth of the memory.
type collector struct {
	limit int64 // bytes on their way, and of one value

	mu    sync.Mutex
	keys  map[kvstore.Key]bool // on their way, each to one reader
	bytes int64
}

// begin reports whether a value's bytes may be put together; end undoes that.
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

// collectingReader is a streamReader that keeps what it reads from offset 0 to the end, and
// adds it to the memory. Any other way of reading ends the keeping. It belongs to one
// goroutine.
type collectingReader struct {
	*streamReader
	collector  *collector
	memory     *s3fifo.Cache[*record]
	generation uint64
	rec        *record
	body       []byte // so far; nil when nothing is kept
}

// Read implements io.Reader.
func (r *collectingReader) Read(p []byte) (int, error) {
	meta := &r.rec.value.Meta
	if r.pos == 0 && r.body == nil && len(p) > 0 && r.collector.begin(meta) {
		r.body = make([]byte, 0, meta.Size)
	}
	n, err := r.streamReader.Read(p)
	if r.body == nil {
		return n, err
	}
	r.body = append(r.body, p[:n]...)
	switch {
	case int64(len(r.body)) == meta.Size: // and its digest was compared
		_, mirrored := r.memory.Get(string(meta.Key))
		r.memory.Add(&record{value: kvstore.NewValue(*meta, r.body), raw: r.rec.raw, streamed: true}, mirrored, r.generation)
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
		r.collector.end(&r.rec.value.Meta)
	}
}
