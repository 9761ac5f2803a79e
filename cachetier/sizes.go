package cachetier

import (
	"slices"
	"sync"
	"unsafe"
)

const (
	smallAllocation = 32 << 10 // up to here the allocator rounds up to a class of sizes
	pageBytes       = 8 << 10  // and beyond to pages
)

// sizeClasses are the sizes in which the allocator hands out small pieces of memory. It
// tells them itself: a slice that grows takes all of what it is given.
var sizeClasses = sync.OnceValue(func() (classes []int64) {
	for size := 0; size < smallAllocation; {
		size = cap(append([]byte(nil), make([]byte, size+1)...))
		classes = append(classes, int64(size))
	}
	return classes
})

// allocated is the memory that an allocation of n bytes takes.
func allocated(n int64) int64 {
	switch {
	case n == 0:
		return 0
	case n > smallAllocation:
		return (n + pageBytes - 1) / pageBytes * pageBytes
	}
	i, _ := slices.BinarySearch(sizeClasses(), n)
	return sizeClasses()[i]
}

// CacheKey implements s3fifo.Value.
func (r *record) CacheKey() string { return string(r.value.Key) }

// CacheBytes implements s3fifo.Value: the value, the encoding for other nodes, key and
// content type, and the structs.
func (r *record) CacheBytes() int64 {
	v := r.value
	n := allocated(int64(unsafe.Sizeof(*r))) + allocated(int64(unsafe.Sizeof(*v)))
	n += allocated(int64(len(v.Key))) + allocated(int64(len(v.ContentType))) + allocated(int64(len(r.raw)))
	n += allocated(int64(len(v.By))) + allocated(int64(v.UserMeta.Bytes()))
	if r.streamed { // its bytes, if it has them, are not part of raw
		body, _ := v.Bytes()
		n += allocated(int64(len(body)))
	}
	if r.sums != nil { // a pointer to a slice of them, as soon as they are known
		n += allocated(8) + allocated(24) + allocated((v.Size+sumBytes-1)/sumBytes*8)
	}
	return n
}
