package httpapi

import "sync/atomic"

// budget bounds the memory of documents that are held whole, in bytes. Safe
// for concurrent use.
type budget struct {
	left atomic.Int64
}

func newBudget(bytes int64) *budget {
	b := new(budget)
	b.left.Store(bytes)
	return b
}

// take reserves n bytes, or reports that they are not there.
func (b *budget) take(n int64) bool {
	if b.left.Add(-n) >= 0 {
		return true
	}
	b.left.Add(n)
	return false
}

// give returns n bytes.
func (b *budget) give(n int64) { b.left.Add(n) }
