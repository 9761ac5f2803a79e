package cachetier

import (
	"bytes"
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// Hot holds values that a database node is asked for again and again, in the
// memory that cache nodes have. It is for values that the node has read from its
// own disk: it loads nothing, and nothing has to be taken out of it, not even when the
// store is forced into another history, which has all that was there. Safe for
// concurrent use.
//
// Finding a value in the store costs so little that holding one costs more. So
// one is held only when it comes back before another key took its place among
// the keys seen: a pass over many keys, or reads all over a large store, write
// one number each and leave the memory alone.
type Hot struct {
	memory *s3fifo.Cache[*record]
	seen   [hotSeen]atomic.Uint32 // fingerprints of keys that were found, by their hash
}

// hotSeen is how many keys are told apart that were found once.
const hotSeen = 1 << 14

// NewHot returns a memory of so many bytes, keys and everything else counted.
func NewHot(bytes int64) *Hot { return &Hot{memory: s3fifo.New[*record](bytes)} }

// Held returns the value of key if it is held.
func (h *Hot) Held(key kvstore.Key) (*kvstore.Value, bool) {
	rec, _ := h.memory.Get(string(key))
	if rec == nil {
		return nil, false
	}
	return rec.value, true
}

// Hold may keep a copy of a value that was found. A streamed one is not kept.
func (h *Hot) Hold(v *kvstore.Value) {
	body, whole := v.Bytes()
	if !whole || !h.again(v.Key) {
		return
	}
	meta := v.Meta
	meta.Key = kvstore.Key(strings.Clone(string(meta.Key))) // what is found may be part of something larger
	meta.ContentType = strings.Clone(meta.ContentType)
	meta.By = strings.Clone(meta.By)
	meta.PutID = "" // which no reader is told
	h.memory.Add(&record{value: kvstore.NewValue(meta, bytes.Clone(body)), streamed: true}, false, 0)
}

// again reports whether the key was the last that was found of those that share
// its place, and notes that it is now.
func (h *Hot) again(key kvstore.Key) bool {
	hash := xxhash.Sum64String(string(key))
	print := uint32(hash>>32) | 1 // zero is none
	at := &h.seen[hash%hotSeen]
	return at.Load() == print || at.Swap(print) == print
}
