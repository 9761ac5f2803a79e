package cachetier

import (
	"bytes"
	"strings"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/Focinfi/oncekv/internal/s3fifo"
	"github.com/Focinfi/oncekv/kvstore"
)

// Hot holds values that a database node is asked for often, in a memory like that of cache
// nodes. They are values that the node has read from its own disk. It loads nothing, and
// nothing has to be taken out of it, even when the store is forced into another history,
// which has all that was there. It is safe for concurrent use.
//
// Finding a value in the store costs less than holding one. So a value is held only when it
// comes back before another key took its place among the keys seen. A pass over many keys,
// or reads all over a large store, write one number each and leave the memory alone.
type Hot struct {
	memory *s3fifo.Cache[*record]
	seen   [hotSeen]atomic.Uint32 // fingerprints of keys that were found, by their hash
}

// hotSeen is how many keys are told apart that were found once.
const hotSeen = 1 << 14

// NewHot returns a memory of so many bytes, which count keys and everything else.
func NewHot(bytes int64) *Hot { return &Hot{memory: s3fifo.New[*record](bytes)} }

// Held returns the value of key if it is held.
func (h *Hot) Held(key kvstore.Key) (*kvstore.Value, bool) {
	rec, _ := h.memory.Get(string(key))
	if rec == nil {
		return nil, false
	}
	return rec.value, true
}

// Hold takes note of a value that was found, and may keep a copy. It keeps no streamed one.
func (h *Hot) Hold(v *kvstore.Value) {
	body, whole := v.Bytes()
	if !whole {
		return
	}
	hash := xxhash.Sum64String(string(v.Key))
	print := uint32(hash>>32) | 1 // zero is none
	if at := &h.seen[hash%hotSeen]; at.Load() != print && at.Swap(print) != print {
		return // the last that was found of those that share its place is another key
	}
	meta := v.Meta
	meta.Key = kvstore.Key(strings.Clone(string(meta.Key))) // what is found may be part of something larger
	meta.ContentType = strings.Clone(meta.ContentType)
	meta.By = strings.Clone(meta.By)
	meta.PutID = "" // which no reader is told
	h.memory.Add(&record{value: kvstore.NewValue(meta, bytes.Clone(body)), streamed: true}, false, 0)
}
