package httpapi

import "sync/atomic"

// limit bounds how many of something there are at a time. It knows nothing of who
// they are, and so costs every request next to nothing; package budget is for what
// clients hold for long. Safe for concurrent use.
type limit struct {
	left atomic.Int64
}

func newLimit(n int64) *limit {
	l := new(limit)
	l.left.Store(n)
	return l
}

// take counts n in, or reports that there is no room for them.
func (l *limit) take(n int64) bool {
	if l.left.Add(-n) >= 0 {
		return true
	}
	l.left.Add(n)
	return false
}

// give counts n out.
func (l *limit) give(n int64) { l.left.Add(n) }
